"""Nonlinear maps: elementwise activations, and maps of which only the Lipschitz constant is known."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.operations.activations import Activation
from cheaplip.lipschitz.reading.operations.bent import Bent
from cheaplip.lipschitz.reading.operations.interval import Interval, Weight
from cheaplip.lipschitz.rounding import UP

__all__ = ["Elementwise", "LipschitzMap"]

_FUNCTION_ERROR = 1e-13  # of a function such as softmax evaluated in float64, relative to 1 + |value|


@dataclass(frozen=True)
class Elementwise:
    """φ of every entry."""

    activation: Activation | Bent

    def __call__(self, x: Tensor) -> Tensor:
        return self.activation.function(x)

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Return the steepest slope: the Lipschitz constant in every norm; inf where slopes have no bound."""
        return max(map(abs, self.activation.secants))

    @property
    def weight(self) -> Weight | None:
        """The slopes that the layer has as its weight, if it has any."""
        return self.activation.slope if isinstance(self.activation, Bent) else None

    def slopes(self, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest slope of each entry of an input of this shape, on the whole line."""
        if isinstance(self.activation, Bent):
            return self.activation.slopes_for(shape)
        low, high = self.activation.secants
        return tuple(torch.full(shape, slope, dtype=torch.float64, device=device) for slope in (low, high))  # type: ignore[return-value]

    def entries(self, shape: tuple[int, ...]) -> list[Activation]:
        """Return the activation of each entry of an input of this shape."""
        return (
            self.activation.entries(shape)
            if isinstance(self.activation, Bent)
            else [self.activation] * math.prod(shape)
        )

    def interval(self, x: Interval) -> Interval:
        """Enclose the values of φ between the ends."""
        return self.activation.values_between(*x)


@dataclass(frozen=True)
class LipschitzMap:
    """A map that is neither affine nor elementwise, with its Lipschitz constants.

    Attributes:
        function: the map.
        constants: by norm, a function from the input's shape to the Lipschitz constant; a norm that is missing is not
            known.
        kind: its name in messages, such as "max pooling".
        monotone: whether each output grows with each input.
        cancels: whether the computed map has an error relative to its inputs, not only to its outputs.
        bounds: between which all values lie.
        channelwise: whether each channel of the output depends on that of the input alone, with the same constants.
    """

    function: Callable[..., Tensor]
    constants: Mapping[float, Callable[[tuple[int, ...]], float]]
    kind: str
    monotone: bool = False
    cancels: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    channelwise: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Return the known constant, or inf."""
        constant = self.constants.get(norm)
        return math.inf if constant is None else constant(shape)

    def interval(self, x: Interval) -> Interval:
        """Enclose the values: between those of the ends of a monotone map, else within Lip · radius of the centre's.

        Infinite where the constant in norm inf is not known.
        """
        low, high = x
        if self.monotone:
            return self.function(low), self.function(high)
        constant = self.constants.get(math.inf)
        middle = self.function((low + high) / 2)
        if constant is None:
            return torch.full_like(middle, -math.inf), torch.full_like(middle, math.inf)
        size = 1 + middle.abs()
        if self.cancels:
            largest = torch.maximum(low.abs(), high.abs()).flatten(1).amax(dim=1)
            size = size + largest.reshape(-1, *[1] * (middle.dim() - 1))
        radius = ((high - low) / 2).flatten(1).amax(dim=1).reshape(-1, *[1] * (middle.dim() - 1))
        reach = constant(tuple(low.shape[1:])) * radius * UP + _FUNCTION_ERROR * size
        return (middle - reach).clamp_min(self.bounds[0]), (middle + reach).clamp_max(self.bounds[1])
