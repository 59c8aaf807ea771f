"""Maps of several values: weighted sums, as in residual blocks, and concatenation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.operations.interval import Interval
from cheaplip.lipschitz.rounding import EPS, UNDERFLOW

__all__ = ["Concatenation", "Sum"]


@dataclass(frozen=True)
class Sum:
    """s₁ x₁ + s₂ x₂ + …, all of one shape."""

    factors: tuple[float, ...]

    def __call__(self, *terms: Tensor) -> Tensor:
        total = self.factors[0] * terms[0]
        for factor, term in zip(self.factors[1:], terms[1:], strict=True):
            total = total + factor * term
        return total

    linear = __call__

    def interval(self, *terms: Interval) -> Interval:
        """Enclose the values between the sums of the ends."""
        pairs = list(zip(self.factors, terms, strict=True))
        low = sum((f * (x[0] if f >= 0 else x[1]) for f, x in pairs), torch.zeros((), dtype=torch.float64))
        high = sum((f * (x[1] if f >= 0 else x[0]) for f, x in pairs), torch.zeros((), dtype=torch.float64))
        margin = 4 * len(terms) * EPS * sum(abs(f) * torch.maximum(x[0].abs(), x[1].abs()) for f, x in pairs)
        return low - margin - UNDERFLOW, high + margin + UNDERFLOW


@dataclass(frozen=True)
class Concatenation:
    """x₁, x₂, … side by side along a dimension (the batch is dimension 0)."""

    dim: int

    def __call__(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, self.dim)

    linear = __call__

    def interval(self, *parts: Interval) -> Interval:
        """Put the ends side by side."""
        return torch.cat([p[0] for p in parts], self.dim), torch.cat([p[1] for p in parts], self.dim)
