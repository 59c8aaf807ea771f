"""Layers that move, copy or average values: reshaping, padding, slicing, average pooling, concatenation, dropout."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_dims
from cheaplip.lipschitz.reading.operations import Concatenation, Nonnegative, Reshape, Scaling

__all__ = ["REARRANGING", "stacked"]


def _same(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read a copy as the value itself."""
    if not node.meta["val"].is_floating_point():
        raise refusal(node, "its result is not floating-point")
    return graph.live(node, node.args[0])


def _dropout(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["train"] and given["p"] > 0:
        raise refusal(node, "it drops values at random even in evaluation mode")
    return graph.live(node, given["input"])


def _reshape(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    shape = tuple(node.meta["val"].shape[1:])
    return graph.emit(node, Reshape(lambda x: x.reshape(x.shape[0], *shape)), graph.live(node, node.args[0]))


def _expand(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return graph.broadcast(node, graph.live(node, node.args[0]))


def _nonnegative(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read an operator as itself, if it leaves the batch alone."""
    check_dims(node, given)
    if given.get("divisor_override") is not None:
        raise refusal(node, "divisor_override is not supported")
    return graph.emit(node, Nonnegative(replay(node)), graph.live(node, node.args[0]))


def _permute(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["dims"][0] != 0:
        raise refusal(node, "it moves the batch from the first dimension")
    return graph.emit(node, Nonnegative(replay(node)), graph.live(node, node.args[0]))


def _slice(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if (
        given["dim"] == 0
        and not given["start"]
        and (given["end"] is None or given["end"] >= BATCH)
        and given["step"] == 1
    ):
        return graph.live(node, given["self"])  # x[:]
    return _nonnegative(graph, node, given)


def _pad(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    widths, value = given["pad"], given.get("value") or 0.0
    rank = len(node.meta["val"].shape)
    if len(widths) // 2 >= rank and any(widths[2 * (rank - 1) :]):
        raise refusal(node, "it pads the batch")
    source = graph.live(node, given["self"])
    if given.get("mode", "constant") != "constant":
        return graph.emit(node, Nonnegative(replay(node)), source)
    at = graph.emit(node, Nonnegative(lambda x: F.pad(x, widths)), source)
    if value == 0:
        return at
    shape = graph.shape_of(source)

    def border() -> Tensor:
        return F.pad(torch.zeros(shape, dtype=torch.float64), widths[: 2 * len(shape)], value=value)

    return graph.emit(node, Scaling(graph.constant(node, 1.0), border), at)


def _parts(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read split, chunk and unbind, each result as a selection of the input."""
    check_dims(node, given)
    function, source = replay(node), graph.live(node, node.args[0])

    def part(x: Tensor, index: int) -> Tensor:
        taken: Tensor = function(x)[index]
        return taken

    return [
        graph.emit(node, Nonnegative(partial(part, index=index)), source, shape=value.shape)
        for index, value in enumerate(node.meta["val"])
    ]


def _concatenate(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    _check_concatenation(node, given)
    return graph.emit(node, Concatenation(given["dim"]), *(graph.live(node, part) for part in given["tensors"]))


def _stack(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    dim = _check_concatenation(node, given)
    return stacked(graph, node, [graph.live(node, part) for part in given["tensors"]], dim)


def _check_concatenation(node: fx.Node, given: dict[str, Any]) -> int:
    dim = int(given["dim"]) % len(node.meta["val"].shape)
    if dim == 0:
        raise refusal(node, "it works along the batch")
    return dim


def stacked(graph: Graph, node: fx.Node, values: list[int], dim: int) -> int:
    """Stack values of one shape along a new dimension; return the index of the result."""
    shape = list(graph.shape_of(values[0]))
    single = (*shape[: dim - 1], 1, *shape[dim - 1 :])
    parts = [
        graph.emit(node, Nonnegative(lambda x: x.reshape(x.shape[0], *single)), value, shape=(BATCH, *single))
        for value in values
    ]
    whole = (*shape[: dim - 1], len(values), *shape[dim - 1 :])
    return graph.emit(node, Concatenation(dim), *parts, shape=(BATCH, *whole))


REARRANGING: Handlers = {
    **dict.fromkeys(["clone", "alias", "contiguous", "detach", "to", "_to_copy", "lift_fresh_copy"], _same),
    **dict.fromkeys(["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"], _dropout),
    **dict.fromkeys(["view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze"], _reshape),
    "expand": _expand,
    "permute": _permute,
    "slice": _slice,
    **dict.fromkeys(
        [
            *("transpose", "select", "narrow", "flip", "mean", "sum", "adaptive_avg_pool1d"),
            *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d"),
        ],
        _nonnegative,
    ),
    **dict.fromkeys(["pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d"], _pad),
    **dict.fromkeys(["split", "split_with_sizes", "chunk", "unbind"], _parts),
    "cat": _concatenate,
    "stack": _stack,
}
