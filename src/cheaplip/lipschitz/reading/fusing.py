"""Simpler forms of new links: a scaling folded into the layer before it, parts of one value side by side as one map."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.chain import Link
from cheaplip.lipschitz.reading.operations import (
    Concatenation,
    Convolution,
    Matrix,
    Nonnegative,
    Operation,
    Scaling,
)
from cheaplip.lipschitz.reading.operations.interval import size_of

__all__ = ["simplified"]


def simplified(
    shape: tuple[int, ...], links: list[Link], operation: Operation, sources: tuple[int, ...]
) -> tuple[Operation, tuple[int, ...]]:
    """Return an operation and the values that it takes, in a simpler form where there is one.

    Args:
        shape: of the chain's input.
        links: of the chain so far.
        operation, sources: the operation, and the indices of the values that it takes.
    """
    if isinstance(operation, Concatenation):
        return _gathered(shape, links, operation, sources)
    return _fused(links, operation, sources)


def _gathered(
    first: tuple[int, ...], links: list[Link], operation: Concatenation, sources: tuple[int, ...]
) -> tuple[Nonnegative | Concatenation, tuple[int, ...]]:
    """Read parts of one value that are put side by side as one map, where its norm is smaller: often it is 1."""
    origins = [_origins(links, source) for source in sources]
    common = max(set.intersection(*(set(origin) for origin in origins)), default=-1)
    parts = [origin.get(common) for origin in origins]
    if all(part is None for part in parts):
        return operation, sources

    def gather(x: Tensor) -> Tensor:
        return torch.cat([x if part is None else part(x) for part in parts], operation.dim)

    shape = first if common == 0 else links[common - 1].shape
    gathered = Nonnegative(gather)
    single = (1.0 if part is None else Nonnegative(part).lipschitz(2, shape) for part in parts)
    if gathered.lipschitz(2, shape) < math.hypot(*single) * (1 + 1e-9):
        return gathered, (common,)
    return operation, sources


def _origins(links: list[Link], value: int) -> dict[int, Callable[[Tensor], Tensor] | None]:
    """Return the values that a value is a map without negative entries of, with these maps; None: the identity."""
    found: dict[int, Callable[[Tensor], Tensor] | None] = {value: None}
    while value > 0 and isinstance(links[value - 1].operation, Nonnegative):
        link = links[value - 1]
        found[link.arguments[0]] = _after(found[value], cast(Nonnegative, link.operation).function)
        value = link.arguments[0]
    return found


def _fused(links: list[Link], operation: Operation, sources: tuple[int, ...]) -> tuple[Operation, tuple[int, ...]]:
    """Fold a scaling, such as batch norm, into the layer before it; the layer's own link stays for other users."""
    first = next(iter(sources), 0)
    if not isinstance(operation, Scaling) or first == 0:
        return operation, sources
    before = links[first - 1]
    layer, scaling = before.operation, operation
    if not isinstance(layer, (Matrix, Convolution)):
        return operation, sources
    out = before.shape[-1] if isinstance(layer, Matrix) else before.shape[0]
    spatial = () if isinstance(layer, Matrix) else (1,) * (len(before.shape) - 1)
    parts = (part for part in (scaling.scale, scaling.bias) if part is not None)
    if any(tuple(part().shape) not in ((), (1,), (out, *spatial)) for part in parts):
        return operation, sources

    def weight() -> Tensor:
        own = layer.weight()
        return own * scaling.scale().reshape(-1, *[1] * (own.dim() - 1))

    def bias() -> Tensor:
        shift = torch.zeros((), dtype=torch.float64) if layer.bias is None else layer.bias()
        shift = shift.to(scaling.scale().device) * scaling.scale()
        return shift if scaling.bias is None else shift + scaling.bias()

    def terms() -> Tensor:
        own, added = size_of(layer.bias, layer.terms), size_of(scaling.bias, scaling.terms)
        size = torch.zeros((), dtype=torch.float64) if own is None else own
        size = size.to(scaling.scale().device) * scaling.scale().detach().abs()
        return size if added is None else size + added

    has_bias = layer.bias is not None or scaling.bias is not None
    fused = replace(layer, weight=weight, bias=bias if has_bias else None, rounded=True, terms=terms)
    return fused, before.arguments


def _after(last: Callable[[Tensor], Tensor] | None, first: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return first if last is None else lambda x: last(first(x))
