"""What each operator of ONNX computes, in torch's operations; integers, such as shapes, are numpy's."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OPERATORS"]

Attributes = Mapping[str, Any]


def _numbers(value: Any) -> list[int]:
    return [int(number) for number in np.asarray(value).reshape(-1)]


def _both(of_tensors: Callable[..., Any], of_arrays: Callable[..., Any]) -> Callable[..., Any]:
    """Compute with torch where an argument is a tensor, and with numpy where all are arrays."""

    def compute(_attributes: Attributes, *arguments: Any) -> Any:
        if not any(isinstance(argument, Tensor) for argument in arguments):
            return of_arrays(*arguments)
        like = next(argument for argument in arguments if isinstance(argument, Tensor))
        return of_tensors(*(a if isinstance(a, Tensor) else torch.as_tensor(a).to(like.dtype) for a in arguments))

    return compute


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _attributes, x: function(x)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    a = a.T if attributes.get("transA", 0) else a
    weight = b if attributes.get("transB", 0) else b.T
    if c is not None:
        return functional.linear(a, alpha * weight, beta * c) if c.dim() == 1 else a @ (alpha * weight.T) + beta * c
    return functional.linear(a, alpha * weight)


def _matmul(_attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return functional.linear(a, b.T) if b.dim() == 2 else a @ b


def _padded(attributes: Attributes, x: Tensor, value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Return the input, and symmetric padding; what is not symmetric is added to the input."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError(f"auto_pad {attributes['auto_pad'].decode()} is not read: export with explicit pads")
    spatial = x.dim() - 2
    pads = attributes.get("pads", [0] * (2 * spatial))
    if pads[:spatial] == pads[spatial:]:
        return x, list(pads[:spatial])
    pairs = [side for k in reversed(range(spatial)) for side in (pads[k], pads[spatial + k])]
    return functional.pad(x, pairs, value=value), [0] * spatial


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, padding = _padded(attributes, x)
    spatial = x.dim() - 2
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[spatial]
    strides, dilations = (attributes.get(name, [1] * spatial) for name in ("strides", "dilations"))
    return convolve(x, weight, bias, strides, padding, dilations, attributes.get("group", 1))


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    x, padding = _padded(attributes, x, -math.inf)
    spatial = x.dim() - 2
    pool = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[spatial]
    pooled: Tensor = pool(
        x,
        attributes["kernel_shape"],
        attributes.get("strides", [1] * spatial),
        padding,
        attributes.get("dilations", [1] * spatial),
        bool(attributes.get("ceil_mode", 0)),
    )
    return pooled


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    counted = bool(attributes.get("count_include_pad", 0))
    pads = attributes.get("pads", [])
    if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
        raise ValueError("average pooling with padding on one side is not read")
    x, padding = _padded(attributes, x)
    spatial = x.dim() - 2
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[spatial]
    strides = attributes.get("strides", [1] * spatial)
    pooled: Tensor = pool(
        x, attributes["kernel_shape"], strides, padding, bool(attributes.get("ceil_mode", 0)), counted
    )
    return pooled


def _batch_norm(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _layer_norm(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", -1) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], weight, bias, attributes.get("epsilon", 1e-5))


def _reshape(attributes: Attributes, x: Any, shape: Any) -> Any:
    wanted = _numbers(shape)
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[k] if size == 0 else size for k, size in enumerate(wanted)]
    batch = attributes["batch"]  # a file that was written for so many inputs alone has the number in its shapes
    if batch is not None and wanted and wanted[0] == batch and x.shape[0] != batch and -1 not in wanted[1:]:
        wanted[0] = x.shape[0]
    return x.reshape(wanted)


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1) % (x.dim() + 1)
    return x.flatten(axis) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(reversed(range(x.dim())))))


def _squeeze(attributes: Attributes, x: Any, axes: Any = None) -> Any:
    chosen = tuple(_numbers(attributes.get("axes") if axes is None else axes))
    return x.squeeze(chosen) if isinstance(x, Tensor) else np.squeeze(x, chosen)


def _unsqueeze(attributes: Attributes, x: Any, axes: Any = None) -> Any:
    for axis in sorted(_numbers(attributes.get("axes") if axes is None else axes)):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


def _concat(attributes: Attributes, *parts: Any) -> Any:
    if any(isinstance(part, Tensor) for part in parts):
        return torch.cat([torch.as_tensor(part) for part in parts], dim=attributes["axis"])
    return np.concatenate([np.atleast_1d(part) for part in parts], axis=attributes["axis"])


def _gather(attributes: Attributes, x: Any, index: Any) -> Any:
    axis = attributes.get("axis", 0)
    if isinstance(x, Tensor):
        return x.select(axis, int(index)) if np.ndim(index) == 0 else x.index_select(axis, torch.as_tensor(index))
    return np.take(x, index, axis=axis)


def _slice(_attributes: Attributes, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    begin, stop = _numbers(starts), _numbers(ends)
    along = list(range(len(begin))) if axes is None else _numbers(axes)
    by = [1] * len(begin) if steps is None else _numbers(steps)
    chosen: list[slice] = [slice(None)] * x.ndim
    for axis, low, high, step in zip(along, begin, stop, by, strict=True):
        chosen[axis] = slice(low, high, step)
    return x[tuple(chosen)]


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(attributes: Attributes, x: Tensor, axes: Any = None) -> Tensor:
        given = attributes.get("axes") if axes is None else axes
        along = list(range(x.dim())) if given is None else _numbers(given)
        return function(x, dim=along, keepdim=bool(attributes.get("keepdims", 1)))

    return compute


def _clip(attributes: Attributes, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    least = attributes.get("min") if low is None else float(low)
    most = attributes.get("max") if high is None else float(high)
    return x.clamp(least, most)


def _softmax(attributes: Attributes, x: Tensor) -> Tensor:
    return x.softmax(attributes.get("axis", -1 if attributes["opset"] >= 13 or x.dim() == 2 else 1))


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _unary(torch.abs),
    "Add": _both(torch.add, np.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda _attributes, x: x,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Cos": _unary(torch.cos),
    "Div": _both(torch.div, np.floor_divide),
    "Dropout": lambda _attributes, x, *_: x,
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": lambda attributes, x: functional.gelu(x, approximate=attributes.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean(dim=_spatial(x), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: x.amax(dim=_spatial(x), keepdim=True)),
    "HardSwish": _unary(functional.hardswish),
    "Identity": lambda _attributes, x: x,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Log": _unary(torch.log),
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _both(torch.mul, np.multiply),
    "Neg": _unary(torch.neg),
    "PRelu": lambda _attributes, x, slope: torch.where(x > 0, x, slope * x),
    "Pow": _both(torch.pow, np.power),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Selu": _unary(functional.selu),
    "Shape": lambda _attributes, x: np.asarray(tuple(x.shape), dtype=np.int64),
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _both(torch.sub, np.subtract),
    "Sum": lambda _attributes, *terms: sum(terms[1:], terms[0]),
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""From the attributes of a node and its inputs to its output."""
