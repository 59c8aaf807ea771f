"""Linear maps that take a weight in a way of their own: einsum with a constant, products with stacks of matrices."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.operations.interval import Interval, Weight, affine_interval
from cheaplip.lipschitz.rounding import EPS, UP
from cheaplip.lipschitz.spectral import matrix_norm

__all__ = ["Weighted"]

_ENTRIES = 1 << 19  # of the matrix, up to which its spectral norm is computed from the matrix itself


@dataclass(frozen=True)
class Weighted:
    """x ↦ f(x, W), linear in x and in W, with entries that are sums of products of the two.

    Attributes:
        function: f, of inputs (B, …) and the weight.
        weight: W.
        rounded: an entry of the matrix may be a sum of several weights, rounded to float64.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    weight: Weight
    rounded: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight().to(x.dtype))

    linear = __call__

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Bound the operator norm: the spectral norm (2), the largest row sum (inf) or column sum (1) of |A|."""
        if norm == 2:
            with torch.no_grad():
                return float(self.spectral_norm(shape))
        rows, columns = self._sums(shape)
        return float((rows if norm == math.inf else columns).detach()) * UP

    def spectral_norm(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the spectral norm from above, differentiably in W: of the matrix, or √(row sum · column sum) of |A|."""
        weight = self.weight()
        outputs = math.prod(self.function(weight.new_zeros(1, *shape), weight.detach()).shape)
        if math.prod(shape) * outputs <= _ENTRIES:
            eye = torch.eye(math.prod(shape), dtype=torch.float64, device=weight.device).reshape(-1, *shape)
            largest = torch.linalg.vector_norm(self.function(eye, weight.detach().abs()))
            return matrix_norm(self.function(eye, weight).flatten(1)) + 4 * weight.numel() * EPS * float(largest)
        rows, columns = self._sums(shape)
        return torch.sqrt(rows * columns) * UP

    def _sums(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the largest row sum and column sum of |A|."""
        absolute = self.weight().abs()
        with torch.enable_grad():
            ones = torch.ones(1, *shape, dtype=torch.float64, device=absolute.device, requires_grad=True)
            rows = self.function(ones, absolute)
            (columns,) = torch.autograd.grad(rows.sum(), ones, create_graph=absolute.requires_grad)
        return rows.max(), columns.max()

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Return the row sums of |A|, which are at least the Euclidean norms of the rows."""
        weight = self.weight().detach().abs()
        return self.function(weight.new_ones(1, *shape), weight) * UP

    def interval(self, x: Interval) -> Interval:
        """Enclose the values: A c ± |A| r, for centre c and radius r of the input's interval."""
        weight = self.weight().detach()
        terms = math.prod(x[0].shape[1:])
        return affine_interval(x, self.__call__, lambda r: self.function(r, weight.abs()), None, terms)
