"""Layers that move, copy or average values: reshaping, padding, slicing, average pooling, concatenation, dropout."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import BATCH, RANDOM, Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import Handler, Handlers, check_circular, check_dims, check_rank
from cheaplip.lipschitz.reading.operations import Concatenation, Nonnegative, Reshape, Scaling, Weight

__all__ = ["REARRANGING", "concatenate", "stacked"]


def _same(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read a copy as the value itself."""
    made, source = node.meta["val"].dtype, node.args[0].meta["val"].dtype  # type: ignore[union-attr]
    if not made.is_floating_point:
        raise refusal(node, "its result is not floating-point")
    if made != source and torch.finfo(made).eps > torch.finfo(torch.float32).eps:
        kind = str(made).removeprefix("torch.")
        raise refusal(node, f"it rounds to {kind}, which jumps: compute in float32")
    return graph.live(node, node.args[0])


def _dropout(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["train"] and given["p"] > 0:
        raise refusal(node, f"it drops values at random even in evaluation mode: {RANDOM}")
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


def _of_features(least: int) -> Handler:
    """Make the handler of an operator on the last dimensions of a value that has at least so many, the batch too."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        check_rank(node, node.args[0], least)
        return _nonnegative(graph, node, given)

    return handle


def _repeat(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if len(given["repeats"]) != source.meta["val"].dim() or given["repeats"][0] != 1:
        raise refusal(node, "it repeats the batch, or puts a dimension before it")
    return graph.emit(node, Nonnegative(replay(node)), graph.live(node, source))


def _index(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read x[:, i] and index_select: an index, or several, that do not depend on the input."""
    places = given["indices"] if "indices" in given else [None] * (given["dim"] % _rank(node)) + [given["index"]]
    if not places or places[0] is not None:
        raise refusal(node, "it works along the batch")
    known = [None if place is None else _index_of(graph, node, place) for place in places]

    def taken(x: Tensor) -> Tensor:
        at = tuple(slice(None) if place is None else place().to(x.device) for place in known)
        return x[at]

    return graph.emit(node, Nonnegative(taken), graph.live(node, given["self"]))


def _index_of(graph: Graph, node: fx.Node, place: Any) -> Callable[[], Tensor]:
    if place not in graph.constants:
        raise refusal(node, "its indices depend on the input")
    return graph.constants[place]


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)


def _permute(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["dims"][0] != 0:
        raise refusal(node, "it moves the batch from the first dimension: write x @ W.T for (W @ x.T).T")
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
    if not math.isfinite(value):
        raise refusal(node, f"it pads with {value}")
    source = graph.live(node, given["self"])
    if given.get("mode", "constant") != "constant":
        if given["mode"] == "circular":
            check_circular(node, widths)
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


def concatenate(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read values, and constants, side by side."""
    dim = _check_concatenation(node, given)
    parts = _parts_of(graph, node, given["tensors"])
    whole = graph.emit(node, Concatenation(dim), *parts[0])
    return _with_constants(graph, node, parts, whole, partial(torch.cat, dim=dim - 1))


def _stack(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    dim = _check_concatenation(node, given)
    parts = _parts_of(graph, node, given["tensors"])
    whole = stacked(graph, node, parts[0], dim)
    return _with_constants(graph, node, parts, whole, partial(torch.stack, dim=dim - 1))


def _parts_of(graph: Graph, node: fx.Node, parts: Sequence[Any]) -> tuple[list[int], list[Weight | None]]:
    """Return the values of the parts, zeros where one is a constant, and these constants; None where it is not."""
    live = next(graph.live(node, part) for part in parts if graph.is_live(part))
    values: list[int] = []
    constants: list[Weight | None] = []
    for part in parts:
        inner = tuple(part.meta["val"].shape[1:])
        if graph.is_live(part):
            values.append(graph.live(node, part))
            constants.append(None)
        else:
            values.append(graph.emit(node, Nonnegative(partial(_nothing, shape=inner)), live, shape=(BATCH, *inner)))
            constants.append(partial(_expanded, graph.one_input(node, part, 1 + len(inner)), inner))
    return values, constants


def _nothing(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros of another shape; they depend on x, so that the map has a derivative."""
    return (0 * x.flatten(1).sum(dim=1)).reshape(-1, *[1] * len(shape)).expand(-1, *shape)


def _expanded(constant: Weight, shape: tuple[int, ...]) -> Tensor:
    return constant().expand(shape)


def _with_constants(
    graph: Graph,
    node: fx.Node,
    parts: tuple[list[int], list[Weight | None]],
    whole: int,
    join: Callable[[list[Tensor]], Tensor],
) -> int:
    """Add the constants that were left out of a concatenation."""
    values, constants = parts
    if all(constant is None for constant in constants):
        return whole
    shapes = [graph.shape_of(value) for value in values]

    def shift() -> Tensor:
        like = next(constant() for constant in constants if constant is not None)
        pairs = zip(constants, shapes, strict=True)
        return join([like.new_zeros(shape) if constant is None else constant() for constant, shape in pairs])

    return graph.emit(node, Scaling(graph.constant(node, 1.0), shift), whole)


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
    **dict.fromkeys(
        ["dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"], _dropout
    ),
    **dict.fromkeys(["view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze"], _reshape),
    "expand": _expand,
    "permute": _permute,
    "slice": _slice,
    **dict.fromkeys(
        [
            *("transpose", "select", "narrow", "flip", "mean", "sum", "adaptive_avg_pool1d"),
            *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "channel_shuffle"),
            *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
            *("upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d"),
            *("roll", "unfold", "cumsum", "repeat_interleave"),
        ],
        _nonnegative,
    ),
    **dict.fromkeys(["tril", "triu", "col2im"], _of_features(3)),
    **dict.fromkeys(["im2col", "pixel_shuffle", "pixel_unshuffle"], _of_features(4)),
    "repeat": _repeat,
    **dict.fromkeys(["index", "index_select"], _index),
    **dict.fromkeys(["pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d"], _pad),
    **dict.fromkeys(["split", "split_with_sizes", "chunk", "unbind"], _parts),
    "stack": _stack,
}
