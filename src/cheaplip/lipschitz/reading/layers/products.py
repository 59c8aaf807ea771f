"""Products of values that depend on the input: gates, matrix products, attention. They need a bounded domain."""

import math
from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, refusal
from cheaplip.lipschitz.reading.layers.handler import Handlers, check_dims, check_rank
from cheaplip.lipschitz.reading.operations import Elementwise, Nonnegative
from cheaplip.lipschitz.reading.operations.activations import SIGMOID
from cheaplip.lipschitz.reading.operations.curves import RECIPROCAL
from cheaplip.lipschitz.reading.operations.ranged import MATRIX_PRODUCT, PRODUCT, attention

__all__ = ["PRODUCTS", "matrix_product", "product", "quotient"]


def product(graph: Graph, node: fx.Node, first: Any, second: Any) -> int:
    """Multiply two values entry by entry."""
    values = [graph.broadcast(node, graph.live(node, argument)) for argument in (first, second)]
    return graph.emit(node, PRODUCT, *values)


def quotient(graph: Graph, node: fx.Node, first: Any, second: Any) -> int:
    """Divide two values entry by entry."""
    divisor = graph.live(node, second)
    shape = (BATCH, *graph.shape_of(divisor))
    inverse = graph.broadcast(node, graph.emit(node, Elementwise(RECIPROCAL), divisor, shape=shape))
    return graph.emit(node, PRODUCT, graph.broadcast(node, graph.live(node, first)), inverse)


def matrix_product(graph: Graph, node: fx.Node, first: Any, second: Any) -> int:
    """Multiply two stacks of matrices."""
    values = [graph.live(node, argument) for argument in (first, second)]
    shapes = [graph.shape_of(value) for value in values]
    if min(map(len, shapes)) < 2 or shapes[0][:-2] != shapes[1][:-2]:
        raise refusal(node, "only products of stacks of as many matrices, one for each input of a batch, are supported")
    return graph.emit(node, MATRIX_PRODUCT, *values)


def _glu(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read a ⊙ sigmoid(b), for the two halves of a value."""
    check_dims(node, given)
    source = graph.live(node, given["self"])
    shape = node.meta["val"].shape
    dim = given["dim"] % len(shape)

    def half(index: int) -> int:
        def taken(x: Tensor) -> Tensor:
            return torch.chunk(x, 2, dim)[index]

        return graph.emit(node, Nonnegative(taken), source)

    value, gate = half(0), half(1)
    return graph.emit(node, PRODUCT, value, graph.emit(node, Elementwise(SIGMOID), gate))


def _attention(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read scaled dot-product attention, with a mask that does not depend on the input."""
    if given["dropout_p"]:
        raise refusal(node, "it drops weights at random: set its dropout to 0")
    if given.get("enable_gqa"):
        raise refusal(node, "groups of queries with one key are not supported: repeat the keys")
    parts = [given[name] for name in ("query", "key", "value")]
    if not all(graph.is_live(part) for part in parts):
        raise refusal(node, "only attention whose queries, keys and values all depend on the input is supported")
    for part in parts:
        check_rank(node, part, 3)
    values = [graph.live(node, part) for part in parts]
    shapes = [graph.shape_of(value) for value in values]
    if len({shape[:-2] for shape in shapes}) != 1:
        raise refusal(node, "its queries, keys and values are stacked differently")
    (queries, width), keys = shapes[0][-2:], shapes[1][-2]
    mask = None if given["attn_mask"] is None else graph.one_input(node, given["attn_mask"])
    if given["is_causal"]:
        mask = lambda: torch.ones(queries, keys, dtype=torch.bool).tril()  # noqa: E731
    scale = 1 / math.sqrt(width) if given["scale"] is None else given["scale"]
    return graph.emit(node, attention(scale, mask), *values)


PRODUCTS: Handlers = {"glu": _glu, "scaled_dot_product_attention": _attention}
