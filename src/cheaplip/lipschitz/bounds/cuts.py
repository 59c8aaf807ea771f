"""Cut a chain into parts wherever a single value carries everything, so that the bounds of the parts multiply."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cheaplip.lipschitz.reading.chain import Chain, Link, SlopeRanges
from cheaplip.lipschitz.reading.operations import LipschitzMap

__all__ = ["ENTRIES", "WIDTH", "Part", "fits", "parts"]

ENTRIES = 1 << 24
"""Most entries of a matrix that a part is written out with."""

WIDTH = 2600
"""Most entries of a value that is written out as neurons, where there is little time."""


class Part(NamedTuple):
    """Some links of a chain, as a chain of their own.

    Attributes:
        chain: the links.
        ranges: the slopes of its activations, narrowed over a domain.
        written: whether it is small enough to be written out as matrices.
    """

    chain: Chain
    ranges: SlopeRanges
    written: bool


def parts(chain: Chain, ranges: SlopeRanges, small: Callable[[Chain], bool]) -> list[Part]:
    """Cut a chain into parts, with as many links together as can be written out.

    Args:
        chain: the model.
        ranges: slopes of activations, narrowed over a domain.
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
    if start < len(chain.links) or not found:
        found.append(Part(*_piece(chain, ranges, start, len(chain.links)), written=True))
    return found


def fits(piece: Chain, width: int = WIDTH) -> bool:
    """Return whether matrices can stand for a piece: it has affine maps and activations only, none too large."""
    shapes = piece.shapes
    return all(
        not isinstance(link.operation, LipschitzMap)
        and math.prod(link.shape) <= width
        and sum(math.prod(shapes[i]) for i in link.arguments) * math.prod(link.shape) <= ENTRIES
        for link in piece.links
    )


def _stops(chain: Chain) -> list[int]:
    """Return after which links, counted from 1, the link's value is all that later ones take."""
    last_use = chain.last_use
    return [at + 1 for at in range(len(chain.links)) if all(last_use.get(i, -1) <= at for i in range(at + 1))]


def _piece(chain: Chain, ranges: SlopeRanges, start: int, stop: int) -> tuple[Chain, SlopeRanges]:
    links: tuple[Link, ...] = tuple(
        replace(link, arguments=tuple(i - start for i in link.arguments)) for link in chain.links[start:stop]
    )
    piece = Chain(chain.shapes[start], links, chain.device)
    return piece, {at - start: r for at, r in ranges.items() if start <= at < stop}
