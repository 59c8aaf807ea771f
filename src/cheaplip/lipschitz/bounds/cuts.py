"""A chain cut where a single value carries everything: f is the composition of the parts, whose bounds multiply."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from cheaplip.lipschitz.reading.chain import Chain, Step
from cheaplip.lipschitz.reading.operations import Contraction

__all__ = ["ENTRIES", "Part", "Ranges", "fits", "parts"]

Ranges = Mapping[int, tuple[Tensor, Tensor]]
"""Smallest and largest slopes of elementwise steps, by their index."""

ENTRIES = 1 << 24  # of a matrix
_WIDTH = 2600  # of a value that is written out as neurons


class Part(NamedTuple):
    """Some steps of a chain, as a chain of their own.

    Attributes:
        chain, ranges: the part.
        written: it is small enough to be written out as matrices.
    """

    chain: Chain
    ranges: Ranges
    written: bool


def parts(chain: Chain, ranges: Ranges, small: Callable[[Chain], bool]) -> list[Part]:
    """As much of the chain as possible together, wherever it can be written out.

    Args:
        chain: the model.
        ranges: slopes narrowed over a domain.
        small: whether a piece can be written out.
    """
    found, start, here = [], 0, 0
    for stop in _stops(chain):
        if not small(_piece(chain, {}, here, stop)[0]):
            if here > start:
                found.append(Part(*_piece(chain, ranges, start, here), written=True))
            found.append(Part(*_piece(chain, ranges, here, stop), written=False))
            start = stop
        here = stop
    if start < len(chain.steps) or not found:
        found.append(Part(*_piece(chain, ranges, start, len(chain.steps)), written=True))
    return found


def fits(piece: Chain) -> bool:
    """Whether matrices can stand for a piece: it is of affine maps and activations, none of them too large."""
    shapes = [piece.shape, *(step.shape for step in piece.steps)]
    return all(
        not isinstance(step.operation, Contraction)
        and math.prod(step.shape) <= _WIDTH
        and sum(math.prod(shapes[i]) for i in step.arguments) * math.prod(step.shape) <= ENTRIES
        for step in piece.steps
    )


def _stops(chain: Chain) -> list[int]:
    """After which steps, counted from 1, everything is in that step's value."""
    last_use = {i: at for at, step in enumerate(chain.steps) for i in step.arguments}
    return [at + 1 for at in range(len(chain.steps)) if all(last_use.get(i, -1) <= at for i in range(at + 1))]


def _piece(chain: Chain, ranges: Ranges, start: int, stop: int) -> tuple[Chain, Ranges]:
    shape = chain.steps[start - 1].shape if start else chain.shape
    steps: tuple[Step, ...] = tuple(
        replace(step, arguments=tuple(i - start for i in step.arguments)) for step in chain.steps[start:stop]
    )
    return Chain(shape, steps, chain.device), {at - start: r for at, r in ranges.items() if start <= at < stop}
