"""Average pooling, which is a convolution, and max pooling, which is made of convolutions and absolute values.

max(a, b) = (a + b)/2 + |a − b|/2. Along one dimension, a convolution makes the k entries of a window channels, and adds
and subtracts them in twos. The absolute values of the differences and a pointwise convolution leave half as many
channels, and so on, until one is left. Bounds of networks with convolutions and activations apply to that; the chain
keeps what the parts are together, too.

Maxima, minima and sorting of other values are in ``paired``, averages over whole dimensions in ``rearranging``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.chain import Whole
from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_rank, per_dimension
from cheaplip.lipschitz.reading.operations import Bent, Convolution, Elementwise, LipschitzMap, Nonnegative
from cheaplip.lipschitz.rounding import above

__all__ = ["POOLING"]

_LARGEST = 5  # most entries of a window that become channels at once


class _Windows(NamedTuple):
    """Windows along one dimension, none of which leaves the image.

    Attributes:
        axis: the dimension, counted from the first spatial one.
        size: entries of a window.
        stride, dilation: as in the layer.
    """

    axis: int
    size: int
    stride: int
    dilation: int


def _average_pool(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read average pooling, which is a convolution of each channel where every window has the same divisor."""
    if given.get("divisor_override") is not None:
        raise refusal(node, "divisor_override is not supported")
    kernel = [given["kernel_size"]] if isinstance(given["kernel_size"], int) else list(given["kernel_size"])
    dims = int(str(node.target).partition("avg_pool")[2][0])
    check_rank(node, node.args[0], dims + 2)
    sizes, stride, padding = (
        per_dimension(option, dims) for option in (kernel, given["stride"] or kernel, given["padding"])
    )
    source = graph.live(node, node.args[0])
    channels = graph.shape_of(source)[0]

    def weight() -> Tensor:
        share = 1 / math.prod(sizes)
        return torch.full((channels, 1, *sizes), share, dtype=torch.float64, device=graph.device)

    even = (given["count_include_pad"] or not any(padding)) and not given["ceil_mode"]
    same = Convolution(weight, None, tuple((p, p) for p in padding), stride, (1,) * dims, channels) if even else None
    return graph.emit(node, Nonnegative(replay(node), same), source)


def _max_pool(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read max pooling, whose constant depends on how many windows an entry lies in.

    The maximum over a window changes by at most the largest change in the window, and an entry's change counts once for
    each of its windows: ``copies`` times in norm 1, √copies in norm 2, once in norm inf.
    """
    several = not isinstance(node.meta["val"], Tensor)
    out = (node.meta["val"][0] if several else node.meta["val"]).shape
    kernel = [given["kernel_size"]] if isinstance(given["kernel_size"], int) else list(given["kernel_size"])
    dims = next(d for d in (1, 2, 3) if f"{d}d" in str(node.target))
    check_rank(node, given["self"], dims + 2)
    source = graph.live(node, given["self"])
    options = [
        per_dimension(option, dims)
        for option in (kernel, given["stride"] or kernel, given["padding"], given["dilation"])
    ]
    copies, inside = 1, True
    sizes = graph.shape_of(source)[1:]
    for size, outputs, k, s, p, d in zip(sizes, out[2:], *options, strict=True):
        starts = torch.arange(outputs)[:, None] * s - p + torch.arange(k) * d
        within = (starts >= 0) & (starts < size)
        if not bool(within.any(dim=1).all()):
            raise refusal(node, "a window lies in the padding alone, where the maximum is -inf")
        copies *= int(torch.bincount(starts[within]).max())
        inside = inside and bool(within.all())
    return _maxima(graph, node, source, copies, _windows(options[0], options[1], options[3]) if inside else None)


def _adaptive_max_pool(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read adaptive max pooling: window i of n goes from ⌊i size / n⌋ to ⌈(i + 1) size / n⌉."""
    out = node.meta["val"][0].shape
    dims = next(d for d in (1, 2, 3) if f"{d}d" in str(node.target))
    check_rank(node, given["self"], dims + 2)
    source, copies = graph.live(node, given["self"]), 1
    sizes = graph.shape_of(source)[1:]
    for size, n in zip(sizes, out[2:], strict=True):
        parts = [range(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
        copies *= max(sum(at in part for part in parts) for at in range(size))
    even = all(size % n == 0 for size, n in zip(sizes, out[2:], strict=True))
    kernel = [size // n for size, n in zip(sizes, out[2:], strict=True)]
    return _maxima(graph, node, source, copies, _windows(kernel, kernel, [1] * dims) if even else None)


def _maxima(graph: Graph, node: fx.Node, source: int, copies: int, stages: Sequence[_Windows] | None) -> Value:
    """Emit maxima over windows, where each entry lies in ``copies`` of them at most.

    ``stages`` are the windows along one dimension after the other, of which they are made; None: they are not.
    """
    several = not isinstance(node.meta["val"], Tensor)
    out = (node.meta["val"][0] if several else node.meta["val"]).shape
    function = replay(node)
    constants: dict[float, Callable[[tuple[int, ...]], float]] = {
        1.0: lambda _: float(copies),
        2.0: lambda _: math.sqrt(copies) * above(5),
        math.inf: lambda _: 1.0,
    }

    def largest(x: Tensor) -> Tensor:
        found: Tensor = function(x)[0] if several else function(x)
        return found

    operation = LipschitzMap(largest, constants, "max pooling", monotone=True, channelwise=True)
    if stages is None:
        return graph.emit(node, operation, source, shape=out)
    return _pairwise_maxima(graph, node, source, stages, operation)


def _windows(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[_Windows] | None:
    """Split windows into some along one dimension after the other; None if some are too large for that.

    Windows that lie side by side are split into smaller ones, of a prime number of entries each.
    """
    found = []
    for axis, (size, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True)):
        if size == step and apart == 1:
            found += [_Windows(axis, prime, prime, 1) for prime in _primes(size)]
        else:
            found.append(_Windows(axis, size, step, apart))
    return found if all(one.size <= _LARGEST for one in found) else None


def _pairwise_maxima(graph: Graph, node: fx.Node, source: int, stages: Sequence[_Windows], whole: LipschitzMap) -> int:
    """Add maxima over windows of each channel of an image; return the index of the result.

    Args:
        graph: so far.
        node: the maxima.
        source: the image.
        stages: the windows, one stage after the other.
        whole: what all stages compute together.
    """
    value = source
    for stage in stages:
        count = stage.size
        value = _convolved(graph, node, value, stage, _paired(count))
        while count > 1:
            half = -(-count // 2)
            value = _bent(graph, node, value, count)
            value = _convolved(graph, node, value, _Windows(stage.axis, 1, 1, 1), _paired(half) @ _joined(count))
            count = half
    if value > source:
        graph.links[-1] = replace(graph.links[-1], whole=Whole(whole, value - source))
    return value


def _convolved(graph: Graph, node: fx.Node, value: int, along: _Windows, matrix: Tensor) -> int:
    """Map the entries of each window, times the channels that the value has for each one, by a matrix (out, in)."""
    channels, *sizes = graph.shape_of(value)
    entries = matrix.shape[1]
    count = channels * along.size // entries  # of the image
    kernel, stride, dilation = ([1] * len(sizes) for _ in range(3))
    kernel[along.axis], stride[along.axis], dilation[along.axis] = along.size, along.stride, along.dilation
    sizes[along.axis] = (sizes[along.axis] - along.dilation * (along.size - 1) - 1) // along.stride + 1

    def weight() -> Tensor:
        each = matrix.to(graph.device).reshape(len(matrix), entries // along.size, *kernel)
        return each.repeat(count, *[1] * (each.dim() - 1))

    padding = ((0, 0),) * len(sizes)
    convolution = Convolution(weight, None, padding, tuple(stride), tuple(dilation), count)
    return graph.emit(node, convolution, value, shape=(BATCH, count * len(matrix), *sizes))


def _bent(graph: Graph, node: fx.Node, value: int, entries: int) -> int:
    """Take the absolute value of the second one of each pair of channels, for ``entries`` channels a window."""
    shape = graph.shape_of(value)

    def slope() -> Tensor:
        each = torch.ones(entries, dtype=torch.float64, device=graph.device)
        each[1::2] = -1
        return each.repeat(shape[0] // entries).reshape(-1, *[1] * (len(shape) - 1))

    return graph.emit(node, Elementwise(Bent(slope)), value, shape=(BATCH, *shape))


def _paired(count: int) -> Tensor:
    """Return the matrix that takes pairs to half their sum and half their difference; an odd entry stays."""
    turn = torch.tensor([[0.5, 0.5], [0.5, -0.5]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    return torch.block_diag(*[turn] * (count // 2), *[one] * (count % 2))  # type: ignore[no-untyped-call, no-any-return]


def _joined(count: int) -> Tensor:
    """Return the matrix that adds each pair."""
    one = torch.ones(1, 1, dtype=torch.float64)
    pair = torch.ones(1, 2, dtype=torch.float64)
    return torch.block_diag(*[pair] * (count // 2), *[one] * (count % 2))  # type: ignore[no-untyped-call, no-any-return]


def _primes(number: int) -> list[int]:
    """Return the prime factors of a number, the smallest first."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found


POOLING: Handlers = {
    **dict.fromkeys(["avg_pool1d", "avg_pool2d", "avg_pool3d"], _average_pool),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices"], _max_pool),
    **dict.fromkeys(["adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"], _adaptive_max_pool),
}
