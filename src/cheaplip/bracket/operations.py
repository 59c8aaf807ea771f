"""What a chain is made of: affine maps, elementwise activations, maps with a known Lipschitz constant, sums."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cheaplip.bracket.activations import Activation

__all__ = ["Concatenation", "Elementwise", "Matrix", "Nonnegative", "Operation", "Scaling", "Sum"]

Weight = Callable[[], Tensor | None]
"""Gives the layer's present weight, so that a chain follows its model through training."""


def _as(weight: Tensor | None, like: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(like.dtype)


@dataclass(frozen=True)
class Matrix:
    """x ↦ W x + b over the last dimension."""

    weight: Callable[[], Tensor]
    bias: Weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight().to(x.dtype), _as(self.bias(), x))

    def linear(self, x: Tensor) -> Tensor:
        """The map without its constant."""
        return F.linear(x, self.weight().to(x.dtype))


@dataclass(frozen=True)
class Scaling:
    """x ↦ s ⊙ x + b, with s and b that broadcast to one input."""

    scale: Callable[[], Tensor]
    shift: Weight

    def __call__(self, x: Tensor) -> Tensor:
        shift = _as(self.shift(), x)
        return self.linear(x) if shift is None else self.linear(x) + shift

    def linear(self, x: Tensor) -> Tensor:
        """The map without its constant."""
        return x * self.scale().to(x.dtype)


@dataclass(frozen=True)
class Nonnegative:
    """A linear map whose matrix has no negative entry: reshaping, padding with zeros or copies, averages."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    linear = __call__


@dataclass(frozen=True)
class Elementwise:
    """φ of every entry."""

    activation: Activation

    def __call__(self, x: Tensor) -> Tensor:
        return self.activation.function(x)


@dataclass(frozen=True)
class Sum:
    """x₁ + x₂ + …; all of one shape, or broadcast to it."""

    signs: tuple[float, ...]

    def __call__(self, *terms: Tensor) -> Tensor:
        total = self.signs[0] * terms[0]
        for sign, term in zip(self.signs[1:], terms[1:], strict=True):
            total = total + sign * term
        return total

    linear = __call__


@dataclass(frozen=True)
class Concatenation:
    """x₁, x₂, … side by side along a dimension (the batch is dimension 0)."""

    dim: int

    def __call__(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, self.dim)

    linear = __call__


Operation = Matrix | Scaling | Nonnegative | Elementwise | Sum | Concatenation
