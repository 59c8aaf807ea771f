"""Writes in place: what torch.export makes of ``x[:, 0] = …``, ``x[..., 1:3] *= 2`` and ``x.fill_(0)``."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, refusal
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_dims
from cheaplip.lipschitz.reading.operations import Concatenation, Nonnegative, Reshape, Scaling

__all__ = ["WRITING"]


def _copy(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read a copy of the second argument, in the shape of the first."""
    if graph.is_live(given["src"]):
        return graph.broadcast(node, graph.live(node, given["src"]))
    return _filled(graph, node, given["self"], given["src"])


def _fill(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return _filled(graph, node, given["self"], given["value"])


def _filled(graph: Graph, node: fx.Node, replaced: Any, constant: Any) -> Value:
    """Read a constant that takes the place of a value: as 0 times the value, plus the constant."""
    zero = partial(torch.tensor, 0.0, dtype=torch.float64)
    return graph.emit(node, Scaling(zero, graph.one_input(node, constant)), graph.live(node, replaced))


def _scatter(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read a value with a slice replaced by another value: what is before, the new part and what is after it."""
    check_dims(node, given)
    source, part = graph.live(node, given["self"]), graph.live(node, given["src"])
    shape = graph.shape_of(source)
    dim = given["dim"] % (len(shape) + 1)
    size = shape[dim - 1]
    if "index" in given:  # select_scatter
        start = given["index"] % size
        single = (*shape[: dim - 1], 1, *shape[dim:])
        reshape = Reshape(lambda x: x.reshape(x.shape[0], *single))
        part = graph.emit(node, reshape, part, shape=(BATCH, *single))
        stop = start + 1
    else:
        start, stop, _ = slice(given["start"], given["end"]).indices(size)
        if given["step"] != 1:
            raise refusal(node, "only a slice with step 1 can be written to")

    def piece(first: int, last: int) -> list[int]:
        if first >= last:
            return []
        cut = (BATCH, *shape[: dim - 1], last - first, *shape[dim:])
        return [graph.emit(node, Nonnegative(partial(_cut, dim=dim, start=first, stop=last)), source, shape=cut)]

    parts = [*piece(0, start), *([part] if stop > start else []), *piece(max(start, stop), size)]
    return parts[0] if len(parts) == 1 else graph.emit(node, Concatenation(dim), *parts)


def _cut(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    return x.narrow(dim, start, stop - start)


WRITING: Handlers = {
    "copy": _copy,
    "fill": _fill,
    **dict.fromkeys(["select_scatter", "slice_scatter"], _scatter),
}
