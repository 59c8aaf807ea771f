"""What each operation of a traced model stands for, by its name in torch; any other is refused."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx

from cheaplip.lipschitz.reading.activations import (
    ABSOLUTE,
    RELU,
    SIGMOID,
    SILU,
    TANH,
    Activation,
    elu,
    gelu,
    hardtanh,
    leaky_relu,
    softplus,
)
from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, bind, refusal, replay
from cheaplip.lipschitz.reading.operations import (
    Concatenation,
    Contraction,
    Convolution,
    Elementwise,
    Matrix,
    Nonnegative,
    Reshape,
    Scaling,
    Sum,
    Weight,
)

__all__ = ["read_node"]

Handler = Callable[[Graph, fx.Node, dict[str, Any]], Value]

_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)
_NORMS = (1.0, 2.0, math.inf)


def read_node(graph: Graph, node: fx.Node) -> Value:
    """Add a node that depends on the input to the graph; returns where its value is.

    Raises:
        UnsupportedLayerError: its operation is not known.
    """
    packet = getattr(node.target, "overloadpacket", None)
    handler = _HANDLERS.get(str(packet).removeprefix("aten."))
    if handler is None:
        raise refusal(node, "no Lipschitz constant is known for it")
    return handler(graph, node, bind(node))


def _check_rank(node: fx.Node, argument: Any, least: int) -> None:
    if argument.meta["val"].dim() < least:
        raise refusal(node, "it takes the batch for another dimension")


def _linear(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    _check_rank(node, given["input"], 2)
    bias = None if given["bias"] is None else graph.constant(node, given["bias"])
    weight = graph.constant(node, given["weight"])
    return graph.emit(node, Matrix(weight, bias), graph.live(node, given["input"]))


def _addmm(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["beta"] != 1 or given["alpha"] != 1:
        raise refusal(node, "beta and alpha other than 1 are not known")
    bias, weight = graph.one_input(node, given["self"]), graph.constant(node, given["mat2"])
    return graph.emit(node, Matrix(lambda: weight().T, bias), graph.live(node, given["mat1"]))


def _matmul(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    other = given["other"] if "other" in given else given["mat2"]
    _check_rank(node, given["self"], 2)
    weight = graph.constant(node, other)
    if other.meta["val"].dim() != 2:
        raise refusal(node, "only a product with a constant matrix, from the right, is known")
    return graph.emit(node, Matrix(lambda: weight().T, None), graph.live(node, given["self"]))


def _convolution(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    weight = graph.constant(node, given["weight"])
    kernel = given["weight"].meta["val"].shape[2:]
    dims = len(kernel)
    _check_rank(node, given["input"], dims + 2)
    stride, dilation = (_each(given[name], dims) for name in ("stride", "dilation"))
    if given["padding"] == "valid":
        padding = ((0, 0),) * dims
    elif given["padding"] == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    else:
        padding = tuple((p, p) for p in _each(given["padding"], dims))
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


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * dims if len(values) == 1 else values)


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


def _add(sign: float) -> Handler:
    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        factor = sign * given["alpha"]
        first, second = given["self"], given["other"]
        if graph.is_live(first) and graph.is_live(second):
            terms = [graph.broadcast(node, graph.live(node, term)) for term in (first, second)]
            return graph.emit(node, Sum((1.0, factor)), *terms)
        scale = partial(torch.tensor, 1.0 if graph.is_live(first) else factor, dtype=torch.float64)
        constant = graph.one_input(node, second if graph.is_live(first) else first)
        weight = factor if graph.is_live(first) else 1.0
        source = graph.broadcast(node, graph.live(node, first if graph.is_live(first) else second))
        return graph.emit(node, Scaling(scale, lambda: weight * constant()), source)

    return handle


def _rsub(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    factor, constant = -given["alpha"], graph.one_input(node, given["other"])
    if factor != -1:
        raise refusal(node, "alpha other than 1 is not known")
    source = graph.broadcast(node, graph.live(node, given["self"]))
    return graph.emit(node, Scaling(partial(torch.tensor, factor, dtype=torch.float64), constant), source)


def _multiply(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    first, second = given["self"], given["other"]
    if not graph.is_live(first):
        first, second = second, first
    constant = graph.one_input(node, second)
    return graph.emit(node, Scaling(constant, None), graph.broadcast(node, graph.live(node, first)))


def _divide(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given.get("rounding_mode") is not None:
        raise refusal(node, "it rounds")
    constant = graph.one_input(node, given["other"])
    source = graph.broadcast(node, graph.live(node, given["self"]))
    return graph.emit(node, Scaling(lambda: 1 / constant(), None), source)


def _negate(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return graph.emit(node, Scaling(graph.constant(node, -1.0), None), graph.live(node, given["self"]))


def _elementwise(make: Callable[[dict[str, Any]], Activation]) -> Handler:
    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        source, *options = given.values()
        if any(isinstance(option, fx.Node) for option in options):
            raise refusal(node, "its options are tensors")
        return graph.emit(node, Elementwise(make(given)), graph.live(node, source))

    return handle


def _clamp(given: dict[str, Any]) -> Activation:
    low, high = given.get("min"), given.get("max")
    return hardtanh(-math.inf if low is None else low, math.inf if high is None else high)


def _same(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """A copy."""
    if not node.meta["val"].is_floating_point():
        raise refusal(node, "it leaves the floating-point numbers")
    return graph.live(node, node.args[0])


def _dropout(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given["train"] and given["p"] > 0:
        raise refusal(node, "it drops at random even in evaluation mode")
    return graph.live(node, given["input"])


def _reshape(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    shape = tuple(node.meta["val"].shape[1:])
    return graph.emit(node, Reshape(lambda x: x.reshape(x.shape[0], *shape)), graph.live(node, node.args[0]))


def _expand(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return graph.broadcast(node, graph.live(node, node.args[0]))


def _nonnegative(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """The operation itself, where it leaves the batch alone."""
    _check_dims(node, given)
    if given.get("divisor_override") is not None:
        raise refusal(node, "divisor_override is not known")
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


def _check_dims(node: fx.Node, given: dict[str, Any]) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = source.meta["val"].dim()
    for name in ("dim", "dims", "dim0", "dim1"):
        if name not in given:
            continue
        value = given[name]
        if value is None or value == []:
            raise refusal(node, "it reduces over the batch")
        if any(dim % rank == 0 for dim in ([value] if isinstance(value, int) else value)):
            raise refusal(node, "it works along the batch")


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
    """Split, chunk, unbind: each result a selection."""
    _check_dims(node, given)
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
    return _stacked(graph, node, [graph.live(node, part) for part in given["tensors"]], dim)


def _check_concatenation(node: fx.Node, given: dict[str, Any]) -> int:
    dim = int(given["dim"]) % len(node.meta["val"].shape)
    if dim == 0:
        raise refusal(node, "it works along the batch")
    return dim


def _stacked(graph: Graph, node: fx.Node, values: list[int], dim: int) -> int:
    shape = list(graph.shape_of(values[0]))
    single = (*shape[: dim - 1], 1, *shape[dim - 1 :])
    parts = [
        graph.emit(node, Nonnegative(lambda x: x.reshape(x.shape[0], *single)), value, shape=(BATCH, *single))
        for value in values
    ]
    whole = (*shape[: dim - 1], len(values), *shape[dim - 1 :])
    return graph.emit(node, Concatenation(dim), *parts, shape=(BATCH, *whole))


def _extreme(largest: bool) -> Handler:
    """The larger or smaller of two values: a maximum over both, side by side."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        values = [graph.broadcast(node, graph.live(node, given[name])) for name in ("self", "other")]
        reduce = partial(torch.amax if largest else torch.amin, dim=1)
        both = _stacked(graph, node, values, 1)
        return graph.emit(node, _contraction(reduce, "maximum", monotone=True), both)

    return handle


def _reduce_extreme(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """amax, amin over dimensions; max, min over one, of which only the values are known."""
    _check_dims(node, given)
    function = replay(node)
    several = not isinstance(node.meta["val"], Tensor)
    shape = node.meta["val"][0].shape if several else node.meta["val"].shape

    def values(x: Tensor) -> Tensor:
        found: Tensor = function(x)[0] if several else function(x)
        return found

    source = graph.live(node, node.args[0])
    return graph.emit(node, _contraction(values, "maximum", monotone=True), source, shape=shape)


def _sort(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Sorting is 1-Lipschitz in every norm: no other order brings two vectors closer."""
    _check_dims(node, given)
    function = replay(node)
    operation = _contraction(lambda x: function(x)[0], "sort", monotone=True)
    return graph.emit(node, operation, graph.live(node, node.args[0]), shape=node.meta["val"][0].shape)


def _softmax(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Jacobian diag(p) − p pᵀ: symmetric, with row sums of absolute values 2 p_i (1 − p_i) ≤ 1/2."""
    _check_dims(node, given)
    operation = _contraction(replay(node), "softmax", constant=0.5)
    return graph.emit(node, operation, graph.live(node, node.args[0]))


def _contraction(
    function: Callable[[Tensor], Tensor], kind: str, *, constant: float = 1.0, monotone: bool = False
) -> Contraction:
    return Contraction(function, dict.fromkeys(_NORMS, lambda _: constant), kind, monotone)


def _max_pool(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """|max over a window − max over it| ≤ the window's largest difference, which counts once a window it lies in."""
    several = not isinstance(node.meta["val"], Tensor)
    out = (node.meta["val"][0] if several else node.meta["val"]).shape
    kernel = [given["kernel_size"]] if isinstance(given["kernel_size"], int) else list(given["kernel_size"])
    dims = 1 if "1d" in str(node.target) else 2
    _check_rank(node, given["self"], dims + 2)
    source = graph.live(node, given["self"])
    stride = _each(given["stride"] or kernel, dims)
    options = (_each(kernel, dims), stride, _each(given["padding"], dims), _each(given["dilation"], dims))
    copies = 1
    for size, outputs, k, s, p, d in zip(graph.shape_of(source)[1:], out[2:], *options, strict=True):
        starts = torch.arange(outputs)[:, None] * s - p + torch.arange(k) * d
        within = (starts >= 0) & (starts < size)
        if not bool(within.any(dim=1).all()):
            raise refusal(node, "a window lies in the padding alone, where the maximum is -inf")
        copies *= int(torch.bincount(starts[within]).max())
    function = replay(node)
    constants: dict[float, Callable[[tuple[int, ...]], float]] = {
        1.0: lambda _: float(copies),
        2.0: lambda _: math.sqrt(copies) * (1 + 1e-15),
        math.inf: lambda _: 1.0,
    }
    operation = Contraction(lambda x: function(x)[0] if several else function(x), constants, "max pooling", True)
    return graph.emit(node, operation, source, shape=out)


_HANDLERS: dict[str, Handler] = {
    "linear": _linear,
    "addmm": _addmm,
    "matmul": _matmul,
    "mm": _matmul,
    **dict.fromkeys(["conv1d", "conv2d"], _convolution),
    **dict.fromkeys(
        ["_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm", "native_batch_norm"],
        _batch_norm,
    ),
    "add": _add(1.0),
    "sub": _add(-1.0),
    "rsub": _rsub,
    "mul": _multiply,
    "div": _divide,
    "neg": _negate,
    "relu": _elementwise(lambda _: RELU),
    "relu6": _elementwise(lambda _: hardtanh(0.0, 6.0)),
    "abs": _elementwise(lambda _: ABSOLUTE),
    "leaky_relu": _elementwise(lambda given: leaky_relu(given["negative_slope"])),
    "sigmoid": _elementwise(lambda _: SIGMOID),
    "tanh": _elementwise(lambda _: TANH),
    "silu": _elementwise(lambda _: SILU),
    "gelu": _elementwise(lambda given: gelu(approximate=given["approximate"])),
    "elu": _elementwise(lambda g: elu(g["alpha"], scale=g["scale"], input_scale=g["input_scale"])),
    "celu": _elementwise(lambda given: elu(given["alpha"], input_scale=1 / given["alpha"])),
    "selu": _elementwise(lambda _: elu(_SELU[0], scale=_SELU[1])),
    "softplus": _elementwise(lambda given: softplus(given["beta"], given["threshold"])),
    "hardtanh": _elementwise(lambda given: hardtanh(given["min_val"], given["max_val"])),
    **dict.fromkeys(["clamp", "clamp_min", "clamp_max"], _elementwise(_clamp)),
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
    "maximum": _extreme(largest=True),
    "minimum": _extreme(largest=False),
    **dict.fromkeys(["amax", "amin", "max", "min"], _reduce_extreme),
    "sort": _sort,
    **dict.fromkeys(["softmax", "_softmax"], _softmax),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "max_pool2d_with_indices"], _max_pool),
}
