"""Layers that divide by the size of their own input, softmax and its relatives, and Euclidean norms."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_dims, check_rank, lipschitz_map
from cheaplip.lipschitz.reading.operations import LipschitzMap, Scaling
from cheaplip.lipschitz.reading.operations.ranged import normalisation
from cheaplip.lipschitz.rounding import above

__all__ = ["NORMALISING", "instance_norm"]


def _with_weights(graph: Graph, node: fx.Node, value: int, given: dict[str, Any], shape: Sequence[int]) -> int:
    """Multiply by the weight and add the bias, in the shape in which they broadcast to one input."""
    weight, bias = given.get("weight"), given.get("bias")
    if weight is None and bias is None:
        return value
    scale = graph.constant(node, 1.0 if weight is None else weight)
    shift = None if bias is None else graph.constant(node, bias)
    scaled = partial(_reshaped, scale, tuple(shape)) if weight is not None else scale
    return graph.emit(node, Scaling(scaled, None if shift is None else partial(_reshaped, shift, tuple(shape))), value)


def _reshaped(compute: Any, shape: tuple[int, ...]) -> Any:
    return compute().reshape(shape)


def _layer_norm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return _over_last(graph, node, given, "layer norm", given["eps"], centred=True)


def _rms_norm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["eps"] is None:
        raise refusal(node, "its eps depends on the type of the numbers: give it, as in RMSNorm(n, eps=1e-6)")
    return _over_last(graph, node, given, "RMS norm", given["eps"], centred=False)


def _over_last(graph: Graph, node: fx.Node, given: dict[str, Any], kind: str, eps: float, *, centred: bool) -> Value:
    shape = list(given["normalized_shape"])
    check_rank(node, given["input"], len(shape) + 1)
    source, size = graph.live(node, given["input"]), math.prod(shape)
    groups = math.prod(graph.shape_of(source)) // size
    operation = normalisation(groups, size, eps, _kind(kind, eps), centred=centred)
    return _with_weights(graph, node, graph.emit(node, operation, source), given, shape)


def _group_norm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return _over_channels(graph, node, given, "group norm", int(given["num_groups"]))


def instance_norm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read an instance norm that takes its statistics from the input."""
    channels = node.meta["val"].shape[1]
    return _over_channels(graph, node, given, "instance norm", channels)


def _over_channels(graph: Graph, node: fx.Node, given: dict[str, Any], kind: str, groups: int) -> Value:
    source = graph.live(node, given["input"])
    channels, *spatial = graph.shape_of(source)
    size = math.prod([channels, *spatial]) // groups
    operation = normalisation(groups, size, given["eps"], _kind(kind, given["eps"]))
    return _with_weights(graph, node, graph.emit(node, operation, source), given, (channels, *[1] * len(spatial)))


def _kind(name: str, eps: float) -> str:
    if eps > 0:
        return name
    return f"{name} with eps = 0; on all of space it has no Lipschitz constant: give an eps above 0, such as 1e-5"


def _softmax(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read softmax, whose constant is 1/2.

    Its Jacobian diag(p) − p pᵀ is symmetric, with row sums of absolute values 2 p_i (1 − p_i) ≤ 1/2.
    """
    check_dims(node, given)
    operation = lipschitz_map(replay(node), "softmax", constant=0.5, bounds=(0.0, 1.0))
    return graph.emit(node, operation, graph.live(node, node.args[0]))


def _log_softmax(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read log-softmax over n entries, whose Jacobian is I − 1 pᵀ.

    Its norm is convex in p, so that it is largest where p is 1 for one entry: √n in norm 2, 2 in norm inf, and n − 1
    or 1 in norm 1.
    """
    check_dims(node, given)
    source = graph.live(node, node.args[0])
    n = graph.shape_of(source)[given["dim"] % len(node.meta["val"].shape) - 1]
    constants: dict[float, Callable[[tuple[int, ...]], float]] = {
        1.0: lambda _: max(1.0, n - 1.0),
        2.0: lambda _: math.sqrt(n) * above(5),
        math.inf: lambda _: 2.0,
    }
    return graph.emit(node, LipschitzMap(replay(node), constants, "log-softmax", cancels=True), source)


def _logsumexp(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read log-sum-exp, whose gradient p has nonnegative entries with the sum 1."""
    check_dims(node, given)
    function, out = replay(node), node.meta["val"].shape
    operation = lipschitz_map(function, "log-sum-exp", cancels=True)
    return graph.emit(node, operation, graph.live(node, node.args[0]), shape=out)


def _length(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read Euclidean norms over dimensions with n entries: the constant is 1, and √n in norm inf."""
    check_dims(node, given)
    if given["ord"] != 2:
        raise refusal(node, f"of vector norms, only the Euclidean one is supported, got {given['ord']}")
    source = graph.live(node, node.args[0])
    n = math.prod(graph.shape_of(source)) // max(1, math.prod(node.meta["val"].shape[1:]))
    constants: dict[float, Callable[[tuple[int, ...]], float]] = {
        1.0: lambda _: 1.0,
        2.0: lambda _: 1.0,
        math.inf: lambda _: math.sqrt(n) * above(5),
    }
    return graph.emit(node, LipschitzMap(replay(node), constants, "norm"), source)


NORMALISING: Handlers = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    **dict.fromkeys(["softmax", "_softmax"], _softmax),
    **dict.fromkeys(["log_softmax", "_log_softmax"], _log_softmax),
    "logsumexp": _logsumexp,
    "linalg_vector_norm": _length,
}
