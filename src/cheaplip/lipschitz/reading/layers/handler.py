"""What all handlers share: their signature, and checks that an operator leaves the batch alone."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal
from cheaplip.lipschitz.reading.operations import LipschitzMap

__all__ = [
    "Handler",
    "Handlers",
    "check_circular",
    "check_dims",
    "check_rank",
    "lipschitz_map",
    "operator_of",
    "per_dimension",
]

Handler = Callable[[Graph, fx.Node, dict[str, Any]], Value]
"""Adds a node to the graph, given the node's arguments by name; returns the index of its value."""

Handlers = dict[str, Handler]
"""Handlers by the operator's name in ``torch.ops.aten``, without its overload."""


def operator_of(node: fx.Node) -> str:
    """Return the operator's name in ``torch.ops.aten``, without its overload; of others, some other name."""
    return str(getattr(node.target, "overloadpacket", None)).removeprefix("aten.")


def check_rank(node: fx.Node, argument: Any, least: int) -> None:
    """Refuse an argument with fewer dimensions, which has no batch."""
    if argument.meta["val"].dim() < least:
        raise refusal(node, "it treats the batch as another dimension")


def check_dims(node: fx.Node, given: dict[str, Any]) -> None:
    """Refuse an operator that works along the first dimension, the batch."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = source.meta["val"].dim()
    for name in ("dim", "dims", "dim0", "dim1", "dimension"):
        if name not in given:
            continue
        value = given[name]
        if value is None or value == []:
            raise refusal(node, "it reduces over the batch")
        if any(dim % rank == 0 for dim in ([value] if isinstance(value, int) else value)):
            raise refusal(node, "it works along the batch")


def check_circular(node: fx.Node, widths: Sequence[int]) -> None:
    """Refuse periodic padding that crops one side and pads the other: torch then copies memory that it never wrote."""
    for before, after in zip(widths[::2], widths[1::2], strict=True):
        if before * after < 0:
            raise refusal(node, f"its circular padding crops one side and pads the other: {before} and {after}")


def per_dimension(value: Any, dims: int) -> tuple[int, ...]:
    """Return an option such as a stride as one number for each spatial dimension."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * dims if len(values) == 1 else values)


def lipschitz_map(
    function: Callable[[Tensor], Tensor],
    kind: str,
    *,
    constant: float = 1.0,
    monotone: bool = False,
    cancels: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> LipschitzMap:
    """Make a map that has the same Lipschitz constant in the norms 1, 2 and inf."""
    return LipschitzMap(
        function, dict.fromkeys((1.0, 2.0, math.inf), lambda _: constant), kind, monotone, cancels, bounds
    )
