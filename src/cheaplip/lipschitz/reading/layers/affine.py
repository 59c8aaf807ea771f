"""Layers with weights: linear layers, convolutions, batch norm in evaluation mode."""

from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, bind, refusal
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_rank, per_dimension
from cheaplip.lipschitz.reading.operations import Convolution, Matrix, Scaling, Weight

__all__ = ["AFFINE"]


def _linear(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    check_rank(node, given["input"], 2)
    bias = None if given["bias"] is None else graph.constant(node, given["bias"])
    weight = graph.constant(node, given["weight"])
    return graph.emit(node, Matrix(weight, bias), graph.live(node, given["input"]))


def _addmm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["beta"] != 1 or given["alpha"] != 1:
        raise refusal(node, "only beta = 1 and alpha = 1 are supported")
    bias, weight = graph.one_input(node, given["self"]), graph.constant(node, given["mat2"])
    return graph.emit(node, Matrix(lambda: weight().T, bias), graph.live(node, given["mat1"]))


def _matmul(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    other = given["other"] if "other" in given else given["mat2"]
    check_rank(node, given["self"], 2)
    weight = graph.constant(node, other)
    if other.meta["val"].dim() != 2:
        raise refusal(node, "only a product with a constant matrix on the right is supported")
    return graph.emit(node, Matrix(lambda: weight().T, None), graph.live(node, given["self"]))


def _convolution(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    weight = graph.constant(node, given["weight"])
    kernel = given["weight"].meta["val"].shape[2:]
    dims = len(kernel)
    check_rank(node, given["input"], dims + 2)
    stride, dilation = (per_dimension(given[name], dims) for name in ("stride", "dilation"))
    if given["padding"] == "valid":
        padding = ((0, 0),) * dims
    elif given["padding"] == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    else:
        padding = tuple((p, p) for p in per_dimension(given["padding"], dims))
    source, circular = given["input"], False
    if _is_circular_pad(source) and not any(map(any, padding)) and graph.is_live(source.args[0]):
        widths = bind(source)["pad"]
        source, circular = source.args[0], True
        padding = tuple((widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2))
        if len(padding) != dims:
            raise refusal(node, "its circular padding reaches over the channels")
    bias = _bias(graph, node, given["bias"], dims)
    operation = Convolution(weight, bias, padding, stride, dilation, given["groups"], circular=circular)
    return graph.emit(node, operation, graph.live(node, source))


def _bias(graph: Graph, node: fx.Node, argument: Any, dims: int) -> Weight | None:
    if argument is None:
        return None
    compute = graph.constant(node, argument)
    return lambda: compute().reshape(-1, *[1] * dims)


def _is_circular_pad(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is torch.ops.aten.pad.default and bind(node)["mode"] == "circular"


def _batch_norm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given.get("training") or given["running_mean"] is None:
        raise refusal(node, "it takes its statistics from the batch")
    source = graph.live(node, given["input"])
    spatial = [1] * (len(graph.shape_of(source)) - 1)
    mean, variance = (graph.constant(node, given[name]) for name in ("running_mean", "running_var"))
    gain = graph.constant(node, 1.0 if given["weight"] is None else given["weight"])
    shift = graph.constant(node, 0.0 if given["bias"] is None else given["bias"])
    eps = given["eps"]

    def scale() -> Tensor:
        return (gain() / torch.sqrt(variance() + eps)).reshape(-1, *spatial)

    def bias() -> Tensor:
        return (shift() - mean() * gain() / torch.sqrt(variance() + eps)).reshape(-1, *spatial)

    return graph.emit(node, Scaling(scale, bias), source, shape=(BATCH, *graph.shape_of(source)))


AFFINE: Handlers = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "mm": _matmul,
    **dict.fromkeys(["conv1d", "conv2d"], _convolution),
    **dict.fromkeys(
        ["_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm", "native_batch_norm"],
        _batch_norm,
    ),
}
