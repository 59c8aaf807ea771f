"""Values whose batch is not the first dimension for a while, as inside of multi-head attention.

Such a value is held as another one, with the batch first, and an index: where each of its entries is found there.
Operators that move entries are applied to the index. As soon as the batch is the first dimension again, entries are
gathered. In between, operators on the last dimension are read for rows of one input each.
"""

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, fx

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.graph import BATCH, Graph, Scattered, Value, bind, replay
from cheaplip.lipschitz.reading.layers.handler import Handlers, operator_of
from cheaplip.lipschitz.reading.operations import Nonnegative, Reshape

__all__ = ["MOVES", "moved", "read_scattered"]

_RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}
MOVES = {
    *_RESHAPES,
    *(
        "permute",
        "transpose",
        "select",
        "slice",
        "narrow",
        "unbind",
        "split",
        "split_with_sizes",
        "chunk",
        "clone",
        "contiguous",
        "alias",
    ),
}
"""Operators that move entries, or take some, and compute nothing."""

_ROWWISE = {
    *("linear", "relu", "sort", "maximum", "minimum", "max", "min", "amax", "amin", "softmax", "cat", "gelu", "abs"),
    *("tanh", "sigmoid", "silu", "leaky_relu", "elu"),
}
"""Operators on the last dimension, or on each entry, that are read for scattered values."""


def moved(graph: Graph, node: fx.Node, error: UnsupportedLayerError) -> Value:
    """Read an operator that moves entries, of a value with the batch first or of a scattered one.

    Args:
        graph: what has been read so far.
        node: the operator.
        error: raised where the result is needed with the batch first.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before = graph.scattered.get(source)
    if before is None:
        value = graph.live(node, source)
        shape = graph.shape_of(value)
        index = torch.arange(BATCH * _entries(shape)).reshape(BATCH, *shape)
    else:
        assert isinstance(before, Scattered)
        value, index, error = before
    if operator_of(node) in _RESHAPES:  # a view of the index need not be one of the value
        found: Any = index.reshape(node.meta["val"].shape)
    else:
        found = replay(node)(index)
    if isinstance(found, Tensor):
        return _placed(graph, node, Scattered(value, found, error))
    parts: list[int | Scattered] = [_settled(graph, node, Scattered(value, part, error)) for part in found]
    if not all(isinstance(part, int) for part in parts):
        graph.scattered[node] = parts
    return [part if isinstance(part, int) else part.value for part in parts]


def read_scattered(graph: Graph, node: fx.Node, handlers: Handlers) -> Value:
    """Read an operator that takes a scattered value."""
    name = operator_of(node)
    first = next(graph.scattered[source] for source in node.all_input_nodes if source in graph.scattered)
    error = first.error if isinstance(first, Scattered) else UnsupportedLayerError(f"{name} of several values")
    if name in MOVES:
        return moved(graph, node, error)
    if name not in _ROWWISE:
        raise error
    known: dict[fx.Node, fx.Node] = {}
    order: Tensor | None = None
    for source in node.all_input_nodes:
        if not graph.is_live(source):
            continue
        rows = graph.scattered.get(source)
        if not isinstance(rows, Scattered):
            raise error
        stand_in, own = _by_rows(graph, node, rows)
        if order is not None and not torch.equal(own, order):
            raise error
        known[source], order = stand_in, own
    assert order is not None
    count = len(order) // BATCH
    given = bind(node)
    rank = len(node.all_input_nodes[0].meta["val"].shape)
    dims = given.get("dim")
    if dims is not None and [dim % rank for dim in ([dims] if isinstance(dims, int) else dims)] != [rank - 1]:
        raise error
    if dims is not None:
        given["dim"] = -1 if isinstance(dims, int) else [-1]
    given = {key: fx.node.map_arg(value, lambda n: known.get(n, n)) for key, value in given.items()}
    results = node.meta["val"]
    first_result = results if isinstance(results, Tensor) else results[0]
    width = first_result.shape[-1]
    if first_result.dim() != rank:
        raise error
    like = torch.empty(BATCH, count, width, dtype=first_result.dtype, device="meta")
    meta = {**node.meta, "val": like if isinstance(results, Tensor) else (like, like)}
    arguments = tuple(given[a.name] for a in node.target._schema.arguments if not a.kwarg_only)  # type: ignore[union-attr]
    acting = SimpleNamespace(target=node.target, args=arguments, kwargs={}, meta=meta, op=node.op)
    value = handlers[name](graph, cast(fx.Node, acting), given)
    assert isinstance(value, int)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    index = (place[:, None] * width + torch.arange(width)).reshape(first_result.shape)
    return _placed(graph, node, Scattered(value, index, error))


def _placed(graph: Graph, node: fx.Node, scattered: Scattered) -> int:
    """Return the value with the batch first; else remember where its entries are."""
    found = _settled(graph, node, scattered)
    if isinstance(found, int):
        return found
    graph.scattered[node] = found
    return found.value


def _settled(graph: Graph, node: fx.Node, scattered: Scattered) -> int | Scattered:
    """Gather the entries if the batch is the first dimension, and every input has its own in the same way."""
    value, index, _ = scattered
    size = _entries(graph.shape_of(value))
    if not index.dim() or len(index) != BATCH:
        return scattered
    local = index - size * torch.arange(BATCH).reshape(-1, *[1] * (index.dim() - 1))
    if not bool(((local == local[:1]) & (local >= 0) & (local < size)).all()):
        return scattered
    return _gathered(graph, node, value, local[0])


def _gathered(graph: Graph, node: fx.Node, value: int, places: Tensor) -> int:
    shape, size = places.shape, _entries(graph.shape_of(value))
    if torch.equal(places.flatten(), torch.arange(size)):
        operation: Nonnegative = Reshape(lambda x: x.reshape(x.shape[0], *shape))
    else:
        flat = places.flatten()
        operation = Nonnegative(lambda x: x.flatten(1)[:, flat.to(x.device)].reshape(x.shape[0], *shape))
    return graph.emit(node, operation, value, shape=(BATCH, *shape))


def _by_rows(graph: Graph, node: fx.Node, scattered: Scattered) -> tuple[fx.Node, Tensor]:
    """Gather the rows of each input; return a node that stands for them, and the order of the rows."""
    value, index, error = scattered
    size = _entries(graph.shape_of(value))
    rows = index.reshape(-1, index.shape[-1])
    owners = rows // size
    order = owners[:, 0].argsort(stable=True)
    if not bool((owners == owners[:, :1]).all()) or len(rows) % BATCH:
        raise error
    sorted_rows = rows[order].reshape(BATCH, -1, index.shape[-1])
    local = sorted_rows - size * torch.arange(BATCH).reshape(-1, 1, 1)
    if not bool(((local == local[:1]) & (local >= 0) & (local < size)).all()):
        raise error
    stand_in = fx.Graph().placeholder("rows")
    stand_in.meta["val"] = torch.empty(local.shape, device="meta")
    graph.values[stand_in] = _gathered(graph, node, value, local[0])
    return stand_in, order


def _entries(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
