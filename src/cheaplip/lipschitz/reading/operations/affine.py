"""Affine maps without a spatial structure: matrices, entrywise scaling, linear maps without negative entries."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cheaplip.lipschitz.reading.operations.convolution import Convolution
from cheaplip.lipschitz.reading.operations.interval import (
    Interval,
    Weight,
    add_bias,
    affine_interval,
    norms_above,
    size_of,
)
from cheaplip.lipschitz.rounding import EPS, UNDERFLOW, UP
from cheaplip.lipschitz.spectral import matrix_norm

__all__ = ["Matrix", "Nonnegative", "Reshape", "Scaling"]


@dataclass(frozen=True)
class Matrix:
    """x ↦ W x + b over the last dimension.

    Attributes:
        weight, bias: (out, in) and (out,), or None.
        rounded: whether they are products of a layer's own and of another's, rounded to float64.
        terms: see :func:`~cheaplip.lipschitz.reading.operations.interval.size_of`.
    """

    weight: Weight
    bias: Weight | None
    rounded: bool = False
    terms: Weight | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return add_bias(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """Apply the map without its bias."""
        return F.linear(x, self.weight().to(x.dtype))

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Bound the operator norm: the spectral norm (2), the largest row sum (inf) or column sum (1) of |W|."""
        if norm == 2:
            with torch.no_grad():
                return float(self.spectral_norm(shape))
        weight = self.weight().detach()
        return float(weight.abs().sum(dim=1 if norm == math.inf else 0).max()) * UP

    def spectral_norm(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the spectral norm from above, differentiably in the weight."""
        return matrix_norm(self.weight())

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the Euclidean norm of each output's row from above; broadcasts to the output."""
        return norms_above(self.weight().detach())

    def interval(self, x: Interval) -> Interval:
        """Enclose the values: W c + b ± |W| r, for centre c and radius r of the input's interval."""
        weight = self.weight().detach()
        size = size_of(self.bias, self.terms)
        return affine_interval(x, self.__call__, lambda r: F.linear(r, weight.abs()), size, weight.shape[1])


@dataclass(frozen=True)
class Scaling:
    """x ↦ s ⊙ x + b, with s and b that broadcast to one input; ``terms`` as in :class:`Matrix`."""

    scale: Weight
    bias: Weight | None
    terms: Weight | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return add_bias(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """Apply the map without its bias."""
        return x * self.scale().to(x.dtype)

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Return the largest |s|: the operator norm in every norm."""
        with torch.no_grad():
            return float(self.spectral_norm(shape))

    def spectral_norm(self, shape: tuple[int, ...]) -> Tensor:
        """Return the largest |s|, differentiably in s."""
        return self.scale().abs().max()

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Return |s|: each row has one entry."""
        return self.scale().detach().abs()

    def interval(self, x: Interval) -> Interval:
        """Enclose the values: s c + b ± |s| r, for centre c and radius r of the input's interval."""
        size = size_of(self.bias, self.terms)
        return affine_interval(x, self.__call__, lambda r: r * self.scale().detach().abs(), size, 1)


@dataclass(frozen=True)
class Nonnegative:
    """A linear map whose matrix has no negative entry: reshaping, padding with zeros or copies, averages.

    Attributes:
        function: the map.
        convolution: the convolution that it is, such as average pooling; None where it is none.
    """

    function: Callable[[Tensor], Tensor]
    convolution: Convolution | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    linear = __call__

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Bound the operator norm: row sums (inf), column sums (1), the root of their product (2, Schur's test)."""
        with torch.enable_grad():
            ones = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
            sums = self.function(ones)
            columns = torch.autograd.grad(sums.sum(), ones)[0]
        row, column = float(sums.detach().max()), float(columns.max())
        return {math.inf: row, 1: column, 2: math.sqrt(row * column)}[norm] * UP

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Return the row sums, which are at least the Euclidean norms of the rows."""
        return self.function(torch.ones(1, *shape, dtype=torch.float64)) * UP

    def interval(self, x: Interval) -> Interval:
        """Enclose the values between those of the ends, as the map is monotone."""
        low, high = (self.function(end) for end in x)
        largest = self.function(torch.maximum(x[0].abs(), x[1].abs()))
        margin = 4 * math.prod(x[0].shape) * EPS * largest + UNDERFLOW
        return low - margin, high + margin


class Reshape(Nonnegative):
    """A map that keeps every value, in the same order."""
