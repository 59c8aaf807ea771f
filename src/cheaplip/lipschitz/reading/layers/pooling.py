"""Max pooling, maxima and minima, sorting, softmax: nonlinear, with a known Lipschitz constant.

Averages, average pooling among them, are linear: see ``rearranging``.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import (
    Handler,
    Handlers,
    check_dims,
    check_rank,
    lipschitz_map,
    per_dimension,
)
from cheaplip.lipschitz.reading.layers.rearranging import stacked
from cheaplip.lipschitz.reading.operations import LipschitzMap
from cheaplip.lipschitz.rounding import above

__all__ = ["POOLING"]


def _extreme(largest: bool) -> Handler:
    """Make the handler of the larger or smaller of two values: the maximum or minimum over both, stacked."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        values = [graph.broadcast(node, graph.live(node, given[name])) for name in ("self", "other")]
        reduce = partial(torch.amax if largest else torch.amin, dim=1)
        both = stacked(graph, node, values, 1)
        return graph.emit(node, lipschitz_map(reduce, "maximum", monotone=True), both)

    return handle


def _reduce_extreme(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read amax and amin, and the values (not the indices) of max and min over one dimension."""
    check_dims(node, given)
    function = replay(node)
    several = not isinstance(node.meta["val"], Tensor)
    shape = node.meta["val"][0].shape if several else node.meta["val"].shape

    def values(x: Tensor) -> Tensor:
        found: Tensor = function(x)[0] if several else function(x)
        return found

    source = graph.live(node, node.args[0])
    return graph.emit(node, lipschitz_map(values, "maximum", monotone=True), source, shape=shape)


def _sort(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read sorting, which is 1-Lipschitz in every norm: no other order brings two vectors closer."""
    check_dims(node, given)
    function = replay(node)
    operation = lipschitz_map(lambda x: function(x)[0], "sort", monotone=True)
    return graph.emit(node, operation, graph.live(node, node.args[0]), shape=node.meta["val"][0].shape)


def _softmax(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read softmax, whose constant is 1/2.

    Its Jacobian diag(p) − p pᵀ is symmetric, with row sums of absolute values 2 p_i (1 − p_i) ≤ 1/2.
    """
    check_dims(node, given)
    operation = lipschitz_map(replay(node), "softmax", constant=0.5)
    return graph.emit(node, operation, graph.live(node, node.args[0]))


def _max_pool(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read max pooling, whose constant depends on how many windows an entry lies in.

    The maximum over a window changes by at most the largest change in the window, and an entry's change counts once for
    each of its windows: ``copies`` times in norm 1, √copies in norm 2, once in norm inf.
    """
    several = not isinstance(node.meta["val"], Tensor)
    out = (node.meta["val"][0] if several else node.meta["val"]).shape
    kernel = [given["kernel_size"]] if isinstance(given["kernel_size"], int) else list(given["kernel_size"])
    dims = 1 if "1d" in str(node.target) else 2
    check_rank(node, given["self"], dims + 2)
    source = graph.live(node, given["self"])
    options = [
        per_dimension(option, dims)
        for option in (kernel, given["stride"] or kernel, given["padding"], given["dilation"])
    ]
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
        2.0: lambda _: math.sqrt(copies) * above(5),
        math.inf: lambda _: 1.0,
    }
    operation = LipschitzMap(lambda x: function(x)[0] if several else function(x), constants, "max pooling", True)
    return graph.emit(node, operation, source, shape=out)


POOLING: Handlers = {
    "maximum": _extreme(largest=True),
    "minimum": _extreme(largest=False),
    **dict.fromkeys(["amax", "amin", "max", "min"], _reduce_extreme),
    "sort": _sort,
    **dict.fromkeys(["softmax", "_softmax"], _softmax),
    **dict.fromkeys(["max_pool1d", "max_pool2d", "max_pool2d_with_indices"], _max_pool),
}
