"""Layers by type: the operations that each known module stands for."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from cheaplip.bracket.activations import (
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
from cheaplip.bracket.operations import Elementwise, Matrix, Nonnegative, Operation
from cheaplip.errors import UnsupportedLayerError

__all__ = ["operations_of"]

_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: lambda _: RELU,
    nn.LeakyReLU: lambda m: leaky_relu(m.negative_slope),
    nn.Sigmoid: lambda _: SIGMOID,
    nn.Tanh: lambda _: TANH,
    nn.ELU: lambda m: elu(m.alpha),
    nn.Softplus: lambda m: softplus(m.beta, m.threshold),
    nn.GELU: lambda m: gelu(approximate=m.approximate),
    nn.SiLU: lambda _: SILU,
    nn.Hardtanh: lambda m: hardtanh(m.min_val, m.max_val),
    nn.ReLU6: lambda _: hardtanh(0.0, 6.0),
}


def operations_of(module: nn.Module, path: str) -> Iterator[tuple[str, Operation]]:
    """The operations of a module whose exact type is known.

    Raises:
        UnsupportedLayerError: it is not.
    """
    kind = type(module)
    if kind is nn.Sequential:
        for name, child in module.named_children():
            yield from operations_of(child, f"{path}.{name}" if path else name)
    elif kind in _ACTIVATIONS:
        yield path, Elementwise(_ACTIVATIONS[kind](module))
    elif isinstance(module, nn.Linear):
        yield path, Matrix(lambda: module.weight, lambda: module.bias)
    elif isinstance(module, nn.Flatten):
        yield path, Nonnegative(module)
    elif kind in (nn.Identity, nn.Dropout):
        return
    else:
        raise UnsupportedLayerError(f"layer {path or 'model'!r} ({kind.__name__}) is not supported")
