"""Pairs of values: maxima and minima of two, sorting in twos, MaxMin, CReLU.

max(a, b) = (a + b)/2 + |a − b|/2, and the minimum has a minus sign. So a sorted pair is an orthogonal map, the absolute
value of every second entry, and the orthogonal map's inverse: bounds of networks with activations apply to it. The
chain keeps what the parts are together, too: a map with constant 1 in every norm.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.chain import Whole
from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import Handler, Handlers, check_dims, lipschitz_map, operator_of
from cheaplip.lipschitz.reading.layers.rearranging import concatenate, stacked
from cheaplip.lipschitz.reading.operations import (
    Bent,
    Elementwise,
    LipschitzMap,
    Matrix,
    Nonnegative,
    Scaling,
    Weight,
    Weighted,
)
from cheaplip.lipschitz.reading.operations.activations import RELU
from cheaplip.lipschitz.rounding import UP

__all__ = ["PAIRED", "extreme_of_two", "reflected"]

_LARGEST, _SMALLEST = 0, 1


def _fixed(graph: Graph, *rows: Sequence[float]) -> Weight:
    """Return a constant vector, or a matrix by its rows."""
    values = [list(row) for row in rows] if len(rows) > 1 else list(rows[0])
    return lambda: torch.tensor(values, dtype=torch.float64, device=graph.device)


def _sorted_pair(graph: Graph, node: fx.Node, both: int) -> int:
    """Sort a value (…, 2) along its last dimension, the larger one first; return the index of the result."""
    if (both,) in graph.pairs:
        return graph.pairs[both,]
    shape = (BATCH, *graph.shape_of(both))
    half = torch.tensor(0.5, dtype=torch.float64)
    turn = _fixed(graph, (1, 1), (1, -1))
    turned = graph.emit(node, Matrix(turn, None), both, shape=shape)
    bent = graph.emit(node, Elementwise(Bent(_fixed(graph, (1, -1)))), turned, shape=shape)
    whole = lipschitz_map(lambda x: torch.stack([x.amax(dim=-1), x.amin(dim=-1)], dim=-1), "sort", monotone=True)
    back = Matrix(lambda: half.to(graph.device) * turn(), None)
    graph.pairs[both,] = graph.emit(node, back, bent, shape=shape, whole=Whole(whole, 3))
    return graph.pairs[both,]


def _of_pair(graph: Graph, node: fx.Node, pair: int, entry: int) -> int:
    shape = (BATCH, *graph.shape_of(pair)[:-1])
    return graph.emit(node, Nonnegative(lambda x: x[..., entry]), pair, shape=shape)


def _with_last(graph: Graph, node: fx.Node, value: int, dim: int) -> int:
    """Move a dimension to the end; return the index of the result."""
    shape = graph.shape_of(value)
    if dim == len(shape):
        return value
    moved = (BATCH, *shape[: dim - 1], *shape[dim:], shape[dim - 1])
    key = (value, dim)
    if key not in graph.pairs:
        graph.pairs[key] = graph.emit(node, Nonnegative(lambda x: x.movedim(dim, -1)), value, shape=moved)
    return graph.pairs[key]


def _extreme(entry: int) -> Handler:
    """Make the handler of the larger or smaller of two values."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        return extreme_of_two(graph, node, given["self"], given["other"], larger=entry == _LARGEST)

    return handle


def extreme_of_two(graph: Graph, node: fx.Node, first: Any, second: Any, *, larger: bool) -> int:
    """Add the larger or the smaller of two values, one of which may be a constant; return the index of the result."""
    if not (graph.is_live(first) and graph.is_live(second)):
        return _extreme_with_constant(graph, node, first, second, _LARGEST if larger else _SMALLEST)
    values = sorted(graph.broadcast(node, graph.live(node, given)) for given in (first, second))
    if values[0] == values[1]:
        return values[0]
    key = (*values, -1)
    if key not in graph.pairs:
        graph.pairs[key] = stacked(graph, node, values, len(graph.shape_of(values[0])) + 1)
    return _of_pair(graph, node, _sorted_pair(graph, node, graph.pairs[key]), _LARGEST if larger else _SMALLEST)


def _extreme_with_constant(graph: Graph, node: fx.Node, first: Any, second: Any, entry: int) -> int:
    """Read max(x, c) as relu(x − c) + c, and min(x, c) as c − relu(c − x)."""
    live, other = (first, second) if graph.is_live(first) else (second, first)
    constant = graph.one_input(node, other)
    sign = torch.tensor(1.0 if entry == _LARGEST else -1.0, dtype=torch.float64)
    source = graph.broadcast(node, graph.live(node, live))
    above = graph.emit(node, Scaling(lambda: sign, lambda: -sign * constant()), source)
    rest = graph.emit(node, Elementwise(RELU), above)
    return graph.emit(node, Scaling(lambda: sign, constant), rest)


def _reduce_extreme(entry: int) -> Handler:
    """Make the handler of amax or amin, or of the values (not the indices) of max or min over one dimension."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        if "other" in given:
            return _extreme(entry)(graph, node, given)
        check_dims(node, given)
        function = replay(node)
        several = not isinstance(node.meta["val"], Tensor)
        shape = node.meta["val"][0].shape if several else node.meta["val"].shape
        source = graph.live(node, node.args[0])
        dims = [given["dim"]] if isinstance(given.get("dim"), int) else list(given.get("dim") or [])
        rank = len(graph.shape_of(source)) + 1
        if len(dims) == 1 and graph.shape_of(source)[dims[0] % rank - 1] == 2:
            last = _with_last(graph, node, source, dims[0] % rank)
            taken = _of_pair(graph, node, _sorted_pair(graph, node, last), entry)
            if not given["keepdim"]:
                return taken
            return graph.emit(node, Nonnegative(lambda x: x.reshape(x.shape[0], *shape[1:])), taken, shape=shape)

        def values(x: Tensor) -> Tensor:
            found: Tensor = function(x)[0] if several else function(x)
            return found

        return graph.emit(node, lipschitz_map(values, "maximum", monotone=True), source, shape=shape)

    return handle


def _sort(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read sorting, which is 1-Lipschitz in every norm: no other order brings two vectors closer."""
    check_dims(node, given)
    function, source = replay(node), graph.live(node, node.args[0])
    shape = node.meta["val"][0].shape
    dim = given["dim"] % len(shape)
    if shape[dim] != 2:
        operation = lipschitz_map(lambda x: function(x)[0], "sort", monotone=True)
        return graph.emit(node, operation, source, shape=shape)
    pair = _sorted_pair(graph, node, _with_last(graph, node, source, dim))
    ascending = not given["descending"]

    def ordered(x: Tensor) -> Tensor:
        return (x.flip(-1) if ascending else x).movedim(-1, dim)

    return graph.emit(node, Nonnegative(ordered), pair, shape=shape)


def _concatenate(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read relu(x) beside relu(−x) as a map of norm 1 of x and |x|; anything else as it is."""
    parts = list(given["tensors"])
    if len(parts) == 2 and all(operator_of(part) == "relu" for part in parts):
        inner = [part.args[0] for part in parts]
        for sign, (one, other) in ((0, inner), (1, inner[::-1])):
            if operator_of(other) == "neg" and other.args[0] is one and graph.is_live(one):
                return _rectified_both(graph, node, graph.live(node, one), given["dim"], first_negative=bool(sign))
    return concatenate(graph, node, given)


def _rectified_both(graph: Graph, node: fx.Node, value: int, dim: int, *, first_negative: bool) -> int:
    """Compute relu(x) = (|x| + x)/2 and relu(−x) = (|x| − x)/2 side by side."""
    shape = graph.shape_of(value)
    dim = dim % len(node.meta["val"].shape)
    if dim == 0:
        raise refusal(node, "it works along the batch")
    twice = graph.emit(
        node, Nonnegative(lambda x: x.unsqueeze(-1).expand(*x.shape, 2)), value, shape=(BATCH, *shape, 2)
    )
    bent = graph.emit(node, Elementwise(Bent(_fixed(graph, (1, -1)))), twice, shape=(BATCH, *shape, 2))
    rows = ((-0.5, 0.5), (0.5, 0.5)) if first_negative else ((0.5, 0.5), (-0.5, 0.5))
    joined: Callable[[Tensor], Tensor] = lambda x: torch.cat([x[..., 0], x[..., 1]], dim)  # noqa: E731
    turned = graph.emit(node, Matrix(_fixed(graph, *rows), None), bent, shape=(BATCH, *shape, 2))
    return graph.emit(node, Nonnegative(joined), turned)


def reflected(graph: Graph, node: fx.Node, first: Any, second: Any, half_angle: Any, dim: int) -> int:
    """Add the Householder activation of two values, side by side along ``dim``; return the index of the result.

    With the unit vector v = (sin θ/2, −cos θ/2) of each pair z, it is z − 2 relu(v · z) v: in the coordinates v and
    v⊥ = (cos θ/2, sin θ/2) it is −|·| of the first.
    """
    values = [graph.live(node, value) for value in (first, second)]
    shape = graph.shape_of(values[0])
    both = stacked(graph, node, values, len(shape) + 1)
    angle = graph.one_input(node, half_angle)

    def sine_and_cosine() -> Tensor:
        half = angle()
        return torch.stack([torch.sin(half), torch.cos(half)], dim=-1)

    def coordinates(x: Tensor, turn: Tensor) -> Tensor:
        a, b, sine, cosine = x[..., 0], x[..., 1], turn[..., 0], turn[..., 1]
        return torch.stack([sine * a - cosine * b, cosine * a + sine * b], dim=-1)

    def pairs(x: Tensor, turn: Tensor) -> Tensor:
        s, t, sine, cosine = x[..., 0], x[..., 1], turn[..., 0], turn[..., 1]
        return torch.stack([cosine * t - sine * s, cosine * s + sine * t], dim=-1)

    def reflect(x: Tensor) -> Tensor:
        turn = sine_and_cosine().to(x)
        s, t = coordinates(x, turn).unbind(dim=-1)
        return pairs(torch.stack([s.abs(), t], dim=-1), turn)

    twice = (BATCH, *shape, 2)
    turned = graph.emit(node, Weighted(coordinates, sine_and_cosine), both, shape=twice)
    bent = graph.emit(node, Elementwise(Bent(_fixed(graph, (-1, 1)))), turned, shape=twice)
    others = math.sqrt(2) * UP  # |cos θ| + |sin θ| at most
    constants = {
        norm: (lambda _, value=value: value) for norm, value in ((1.0, others), (2.0, 1.0), (math.inf, others))
    }
    whole = LipschitzMap(reflect, constants, "Householder activation", cancels=True)
    back = graph.emit(node, Weighted(pairs, sine_and_cosine), bent, shape=twice, whole=Whole(whole, 3))
    joined: Callable[[Tensor], Tensor] = lambda x: torch.cat([x[..., 0], x[..., 1]], dim)  # noqa: E731
    return graph.emit(node, Nonnegative(joined), back)


PAIRED: Handlers = {
    "maximum": _extreme(_LARGEST),
    "minimum": _extreme(_SMALLEST),
    **dict.fromkeys(["amax", "max"], _reduce_extreme(_LARGEST)),
    **dict.fromkeys(["amin", "min"], _reduce_extreme(_SMALLEST)),
    "sort": _sort,
    "cat": _concatenate,
}
