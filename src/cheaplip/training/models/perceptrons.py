"""Multilayer perceptrons: ``mlp:WIDTHS``, and ``linear``, which has no hidden layer."""

import math
from collections.abc import Callable, Sequence

from torch import nn

__all__ = ["perceptron"]


def perceptron(
    shape: tuple[int, ...], outputs: int, widths: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Make a multilayer perceptron; with no widths it is linear.

    Args:
        shape: of one input.
        outputs: number of outputs.
        widths: of the hidden layers.
        activation: makes the activation after each hidden layer.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(shape)
    for width in widths:
        layers += [nn.Linear(size, width), activation()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))
