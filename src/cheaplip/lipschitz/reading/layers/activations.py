"""Elementwise activations; their slopes are in :mod:`cheaplip.lipschitz.reading.operations.activations`."""

import math
from collections.abc import Callable
from typing import Any

from torch import fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal
from cheaplip.lipschitz.reading.layers.handler import Handler, Handlers
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.reading.operations.activations import (
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

__all__ = ["ACTIVATIONS"]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _elementwise(make: Callable[[dict[str, Any]], Activation]) -> Handler:
    """Make the handler of an activation from a function of the operator's arguments."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        source, *options = given.values()
        if any(isinstance(option, fx.Node) for option in options):
            raise refusal(node, "its options are tensors")
        return graph.emit(node, Elementwise(make(given)), graph.live(node, source))

    return handle


def _clamp(given: dict[str, Any]) -> Activation:
    low, high = given.get("min"), given.get("max")
    return hardtanh(-math.inf if low is None else low, math.inf if high is None else high)


ACTIVATIONS: Handlers = {
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
    "selu": _elementwise(lambda _: elu(_SELU_ALPHA, scale=_SELU_SCALE)),
    "softplus": _elementwise(lambda given: softplus(given["beta"], given["threshold"])),
    "hardtanh": _elementwise(lambda given: hardtanh(given["min_val"], given["max_val"])),
    **dict.fromkeys(["clamp", "clamp_min", "clamp_max"], _elementwise(_clamp)),
}
