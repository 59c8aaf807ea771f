"""Activations with a slope of their own in each entry: PReLU, and absolute values of some entries alone."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.operations.activations import Activation, leaky_relu
from cheaplip.lipschitz.reading.operations.interval import Weight
from cheaplip.lipschitz.rounding import EPS, UNDERFLOW

__all__ = ["Bent"]


@dataclass(frozen=True)
class Bent:
    """φ_i(x) = x for x > 0 and s_i x elsewhere: PReLU; with s_i = 1 the identity, with s_i = −1 the absolute value.

    Attributes:
        slope: gives the slopes s, which broadcast to one input, read anew in each call.
    """

    slope: Weight

    @property
    def flaw(self) -> str:
        """Why no slope bounds φ on the whole line, for messages; empty where one does."""
        return "" if bool(torch.isfinite(self.slope().detach()).all()) else "one of its slopes is NaN or infinite"

    @property
    def secants(self) -> tuple[float, float]:
        """Smallest and largest slope of all entries; those of each entry are :meth:`slopes_for`."""
        slope = self.slope().detach()
        return (-math.inf, math.inf) if self.flaw else (min(1.0, float(slope.min())), max(1.0, float(slope.max())))

    @property
    def pieces(self) -> tuple[tuple[float, float, partial[Tensor]], ...]:
        """The intervals on which every entry is linear, with its steepest slope there."""
        one, other = (partial(torch.full_like, fill_value=value) for value in (1.0, self.secants[0]))
        return ((-math.inf, 0.0, other), (0.0, math.inf, one))

    def function(self, x: Tensor) -> Tensor:
        """Apply φ in the type of ``x``."""
        return torch.where(x > 0, x, self.slope().to(x.dtype) * x)

    def slopes_for(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest slope of each entry of an input of this shape."""
        slope = self.slope().detach().expand(shape)
        return slope.clamp_max(1.0), slope.clamp_min(1.0)

    def entries(self, shape: tuple[int, ...]) -> list[Activation]:
        """Return an activation for each entry of an input of this shape."""
        return [leaky_relu(slope) for slope in self.slope().detach().expand(shape).flatten().tolist()]

    def slopes_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclose the slopes for inputs between ``low`` and ``high``, float64."""
        slope = self.slope().detach()
        negative, positive = torch.where(low < 0, slope, 1.0), torch.where(high > 0, 1.0, slope)
        return torch.minimum(negative, positive), torch.maximum(negative, positive)

    def values_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclose the values for inputs between ``low`` and ``high``, float64, rounded outwards."""
        ends = torch.stack([self.function(at) for at in (low, high, torch.zeros_like(low).clamp(low, high))])
        least, most = ends.amin(dim=0), ends.amax(dim=0)
        margin = 4 * EPS * torch.maximum(least.abs(), most.abs()) + UNDERFLOW
        return least - margin, most + margin
