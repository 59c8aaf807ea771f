"""Choices between two values: by a mask that does not depend on the input, or refused, as they may jump."""

from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal
from cheaplip.lipschitz.reading.layers.handler import Handlers
from cheaplip.lipschitz.reading.operations import Scaling, Sum, Weight

__all__ = ["CHOICES"]

_JUMPS = (
    "it compares values that depend on the input, and a choice by that may jump: write it with relu, abs, clamp, "
    "maximum or minimum, or register the layer that holds it with cheaplip.lipschitz.register_layer"
)


def _refused(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    raise refusal(node, _JUMPS)


def _mask(graph: Graph, node: fx.Node, argument: Any) -> Weight:
    """Return a mask as zeros and ones, in the shape of one input."""
    if graph.is_live(argument):
        raise refusal(node, _JUMPS)
    chosen = graph.one_input(node, argument)
    return lambda: chosen().double()


def _chosen(graph: Graph, node: fx.Node, mask: Weight, first: Any, second: Any) -> Value:
    """Read the first value where the mask is 1, and the second where it is 0."""

    def rest() -> Tensor:
        return 1 - mask()

    sides = [(value, where) for value, where in ((first, mask), (second, rest)) if graph.is_live(value)]
    if not sides:
        raise refusal(node, _JUMPS)
    kept: list[int] = []
    for value, where in sides:
        other, there = (second, rest) if value is first and where is mask else (first, mask)
        fixed = None if graph.is_live(other) else _fixed(graph, node, other, there)
        source = graph.broadcast(node, graph.live(node, value))
        kept.append(graph.emit(node, Scaling(where, fixed), source))
    return kept[0] if len(kept) == 1 else graph.emit(node, Sum((1.0, 1.0)), *kept)


def _fixed(graph: Graph, node: fx.Node, argument: Any, where: Weight) -> Weight:
    constant = graph.one_input(node, argument)

    def compute() -> Tensor:
        value, mask = constant(), where()
        value = value.to(mask.device)
        return torch.where(mask > 0, value, torch.zeros_like(value))

    return compute


def _where(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return _chosen(graph, node, _mask(graph, node, given["condition"]), given["self"], given["other"])


def _masked_fill(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    return _chosen(graph, node, _mask(graph, node, given["mask"]), given["value"], given["self"])


CHOICES: Handlers = {
    "where": _where,
    "masked_fill": _masked_fill,
    **dict.fromkeys(["gt", "ge", "lt", "le", "eq", "ne", "sign", "sgn"], _refused),
}
