"""Arithmetic: sums of activations, as in residual blocks, and the four operations with a constant."""

from functools import partial
from typing import Any

import torch
from torch import fx

from cheaplip.lipschitz.reading.graph import BATCH, Graph, Value, refusal
from cheaplip.lipschitz.reading.layers.handler import Handler, Handlers
from cheaplip.lipschitz.reading.layers.products import product, quotient
from cheaplip.lipschitz.reading.operations import Elementwise, Scaling, Sum
from cheaplip.lipschitz.reading.operations.curves import RECIPROCAL

__all__ = ["ARITHMETIC"]


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
        raise refusal(node, "only alpha = 1 is supported")
    source = graph.broadcast(node, graph.live(node, given["self"]))
    return graph.emit(node, Scaling(partial(torch.tensor, factor, dtype=torch.float64), constant), source)


def _multiply(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    first, second = given["self"], given["other"]
    if graph.is_live(first) and graph.is_live(second):
        return product(graph, node, first, second)
    if not graph.is_live(first):
        first, second = second, first
    constant = graph.one_input(node, second)
    return graph.emit(node, Scaling(constant, None), graph.broadcast(node, graph.live(node, first)))


def _divide(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    if given.get("rounding_mode") is not None:
        raise refusal(node, "it rounds")
    if graph.is_live(given["self"]) and graph.is_live(given["other"]):
        return quotient(graph, node, given["self"], given["other"])
    if graph.is_live(given["other"]):
        shape = (BATCH, *graph.shape_of(graph.live(node, given["other"])))
        inverse = graph.emit(node, Elementwise(RECIPROCAL), graph.live(node, given["other"]), shape=shape)
        return graph.emit(node, Scaling(graph.one_input(node, given["self"]), None), graph.broadcast(node, inverse))
    constant = graph.one_input(node, given["other"])
    source = graph.broadcast(node, graph.live(node, given["self"]))
    return graph.emit(node, Scaling(lambda: 1 / constant(), None), source)


def _negate(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return graph.emit(node, Scaling(graph.constant(node, -1.0), None), graph.live(node, given["self"]))


ARITHMETIC: Handlers = {
    "add": _add(1.0),
    "sub": _add(-1.0),
    "rsub": _rsub,
    "mul": _multiply,
    "div": _divide,
    "neg": _negate,
}
