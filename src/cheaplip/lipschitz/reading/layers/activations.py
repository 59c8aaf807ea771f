"""Elementwise activations; their slopes are in :mod:`cheaplip.lipschitz.reading.operations.activations`."""

import math
from collections.abc import Callable
from typing import Any

from torch import fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal, replay
from cheaplip.lipschitz.reading.layers.handler import Handler, Handlers, lipschitz_map
from cheaplip.lipschitz.reading.operations import Bent, Elementwise
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
from cheaplip.lipschitz.reading.operations.curves import (
    EXP,
    HARDSIGMOID,
    HARDSWISH,
    LOGSIGMOID,
    MISH,
    RECIPROCAL,
    SQUARE,
)

__all__ = ["ACTIVATIONS"]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _elementwise(make: Callable[[dict[str, Any]], Activation]) -> Handler:
    """Make the handler of an activation from a function of the operator's arguments."""

    def handle(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
        source, *options = given.values()
        if any(isinstance(option, fx.Node) for option in options):
            raise refusal(node, "its options are tensors")
        try:
            activation = make(given)
        except ValueError as error:
            raise refusal(node, str(error)) from error
        return graph.emit(node, Elementwise(activation), graph.live(node, source))

    return handle


def _clamp(given: dict[str, Any]) -> Activation:
    low, high = given.get("min"), given.get("max")
    return hardtanh(-math.inf if low is None else low, math.inf if high is None else high)


def _prelu(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read PReLU, whose slope is the same for all entries, or one for each channel."""
    source, slope = graph.live(node, given["self"]), graph.constant(node, given["weight"])
    rank = len(graph.shape_of(source))
    shape = (-1, *[1] * (rank - 1)) if rank else ()
    return graph.emit(node, Elementwise(Bent(lambda: slope().reshape(shape))), source)


def _rrelu(given: dict[str, Any]) -> Activation:
    if given["training"]:
        raise ValueError("it draws its slopes at random")
    return leaky_relu((given["lower"] + given["upper"]) / 2)


def _threshold(given: dict[str, Any]) -> Activation:
    if given["threshold"] != given["value"]:
        raise ValueError(
            f"it jumps from {given['value']:g} to {given['threshold']:g}, so that no Lipschitz constant bounds it: use "
            "nn.Threshold(t, t)"
        )
    return hardtanh(given["threshold"], math.inf)


def _power(given: dict[str, Any]) -> Activation:
    if given["exponent"] != 2:
        raise ValueError("of powers, only the square is supported")
    return SQUARE


def _wave(graph: Graph, node: fx.Node, given: dict[str, Any]) -> Value:
    """Read sine or cosine, of which the constant is kept, but no slopes."""
    operation = lipschitz_map(replay(node), "sine or cosine", cancels=True)
    return graph.emit(node, operation, graph.live(node, node.args[0]))


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
    "prelu": _prelu,
    "rrelu": _elementwise(_rrelu),
    "mish": _elementwise(lambda _: MISH),
    "hardswish": _elementwise(lambda _: HARDSWISH),
    "hardsigmoid": _elementwise(lambda _: HARDSIGMOID),
    "log_sigmoid": _elementwise(lambda _: LOGSIGMOID),
    "threshold": _elementwise(_threshold),
    "exp": _elementwise(lambda _: EXP),
    "square": _elementwise(lambda _: SQUARE),
    "pow": _elementwise(_power),
    "reciprocal": _elementwise(lambda _: RECIPROCAL),
    **dict.fromkeys(["clamp", "clamp_min", "clamp_max"], _elementwise(_clamp)),
    **dict.fromkeys(["sin", "cos"], _wave),
}
