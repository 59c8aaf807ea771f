"""Layers with weights: linear layers, convolutions, batch norm in evaluation mode."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, bind, refusal
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_circular, check_rank, per_dimension
from cheaplip.lipschitz.reading.layers.normalising import instance_norm
from cheaplip.lipschitz.reading.layers.products import matrix_product
from cheaplip.lipschitz.reading.operations import (
    Convolution,
    Matrix,
    Nonnegative,
    Scaling,
    TransposedConvolution,
    Weight,
    Weighted,
)

__all__ = ["AFFINE"]

_TRANSPOSE = Nonnegative(lambda x: x.transpose(-2, -1))


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
    if graph.is_live(other) and graph.is_live(given["self"]):
        return matrix_product(graph, node, given["self"], other)
    if graph.is_live(other):
        return _product_with_matrix_on_the_left(graph, node, given["self"], other)
    check_rank(node, given["self"], 2)
    if other.meta["val"].dim() > 2:
        return _stacked_product(graph, node, given["self"], other)
    weight = graph.constant(node, other)
    if other.meta["val"].dim() != 2:
        raise refusal(node, "only a product with a constant matrix on the right is supported")
    return graph.emit(node, Matrix(lambda: weight().T, None), graph.live(node, given["self"]))


def _product_with_matrix_on_the_left(graph: Graph, node: fx.Node, matrix: fx.Node, source: fx.Node) -> Value:
    """Read W @ x, where x is (B, …, n, m), as x.transpose(-2, -1) @ W.T, transposed back."""
    if matrix.meta["val"].dim() > 2:
        return _stacked_product(graph, node, matrix, source)
    weight = graph.constant(node, matrix)
    if source.meta["val"].dim() < 3 or matrix.meta["val"].dim() != 2:
        raise refusal(node, "a matrix on the left works along the batch: write x @ W.T")
    value, shape = graph.live(node, source), tuple(source.meta["val"].shape)
    turned = graph.emit(node, _TRANSPOSE, value, shape=(*shape[:-2], shape[-1], shape[-2]))
    rows = matrix.meta["val"].shape[0]
    product = graph.emit(node, Matrix(weight, None), turned, shape=(*shape[:-2], shape[-1], rows))
    return graph.emit(node, _TRANSPOSE, product)


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
        check_circular(source, widths)
        source, circular = source.args[0], True
        padding = tuple((widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2))
        if len(padding) != dims:
            raise refusal(node, "its circular padding reaches over the channels")
    bias = _bias(graph, node, given["bias"], dims)
    operation = Convolution(weight, bias, padding, stride, dilation, given["groups"], circular=circular)
    return graph.emit(node, operation, graph.live(node, source))


def _transposed(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    weight = graph.constant(node, given["weight"])
    dims = len(given["weight"].meta["val"].shape) - 2
    check_rank(node, given["input"], dims + 2)
    names = ("padding", "stride", "dilation", "output_padding")
    options = {name: per_dimension(given[name], dims) for name in names}
    bias = _bias(graph, node, given["bias"], dims)
    operation = TransposedConvolution(weight, bias, groups=given["groups"], **options)
    return graph.emit(node, operation, graph.live(node, given["input"]))


def _einsum(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read einsum with one input that depends on the model's input; the batch must stay a dimension of its own."""
    equation, operands = given["equation"].replace(" ", ""), list(given["tensors"])
    live = [at for at, operand in enumerate(operands) if graph.is_live(operand)]
    taken, arrow, made = equation.partition("->")
    terms = taken.split(",")
    batch = terms[live[0]][:1]
    if "." in equation or not arrow or not made.startswith(batch) or (terms[live[0]] + made).count(batch) != 2:
        raise refusal(node, "its equation must keep the batch as the first index, as in 'bi,oi->bo'")
    if len(live) > 1:
        raise refusal(node, "an einsum of several values that depend on the input: write it as a matmul")
    if len(operands) > 2 or any(batch in term for at, term in enumerate(terms) if at != live[0]):
        raise refusal(node, "only an einsum with one constant, the same for all inputs of a batch, is supported")
    source = graph.live(node, operands[live[0]])
    if len(operands) == 1:
        return graph.emit(node, Nonnegative(partial(torch.einsum, equation)), source)
    order = slice(None, None, 1 if live[0] == 0 else -1)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        product: Tensor = torch.einsum(equation, *(x, weight)[order])
        return product

    return graph.emit(node, Weighted(function, graph.constant(node, operands[1 - live[0]])), source)


def _stacked_product(graph: Graph, node: fx.Node, first: Any, second: Any) -> Value:
    """Read a product with a stack of constant matrices."""
    live, other = (first, second) if graph.is_live(first) else (second, first)
    weight = graph.one_input(node, other)
    check_rank(node, live, 3)

    def function(x: Tensor, stack: Tensor) -> Tensor:
        return x @ stack if live is first else stack @ x

    return graph.emit(node, Weighted(function, weight), graph.live(node, live))


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
    if not bool((variance() + eps > 0).all()):
        least = float(variance().min())
        raise refusal(node, f"its running variance is {least:g}, expected 0 or more: train it again, or load it again")

    def scale() -> Tensor:
        return (gain() / torch.sqrt(variance() + eps)).reshape(-1, *spatial)

    def bias() -> Tensor:
        return (shift() - mean() * gain() / torch.sqrt(variance() + eps)).reshape(-1, *spatial)

    def terms() -> Tensor:
        return (shift().abs() + (mean() * gain()).abs() / torch.sqrt(variance() + eps)).reshape(-1, *spatial)

    return graph.emit(node, Scaling(scale, bias, terms), source, shape=(BATCH, *graph.shape_of(source)))


def _instance_norm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read an instance norm with running statistics as the batch norm that it is in evaluation mode."""
    if given["use_input_stats"]:
        return instance_norm(graph, node, given)
    return _batch_norm(graph, node, given)


AFFINE: Handlers = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    **dict.fromkeys(["mm", "bmm"], _matmul),
    "einsum": _einsum,
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], _convolution),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], _transposed),
    **dict.fromkeys(
        ["_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm", "native_batch_norm"],
        _batch_norm,
    ),
    "instance_norm": _instance_norm,
}
