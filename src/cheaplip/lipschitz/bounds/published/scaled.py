"""What the published bounds share: weights scaled by powers of two, and norms and errors rounded upwards."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.lipsdp import ProvedBound, Slopes
from cheaplip.lipschitz.rounding import UNDERFLOW, UP, power_up
from cheaplip.lipschitz.spectral import matrix_norm

__all__ = ["Scaled", "frobenius", "product_error", "spectral"]

_UNIT = 2.0**-53


class Scaled(NamedTuple):
    """A network whose weights are divided by powers of two, so that their norms are between ½ and 1.

    Attributes:
        weights: float64, on the CPU.
        norms: their spectral norms, rounded upwards.
        slopes: lowest and highest slope of the neurons of each hidden layer, (n,).
        exponent: the powers' product is 2**exponent.
    """

    weights: list[Tensor]
    norms: list[float]
    slopes: list[tuple[Tensor, Tensor]]
    exponent: int

    @staticmethod
    def of(weights: Sequence[Tensor], slopes: Slopes) -> "Scaled":
        """Scale a network, with weights W_1 … W_L, each (n_out, n_in) and finite, and the slopes of its layers."""
        found, norms, total = [], [], 0
        for weight in weights:
            matrix = weight.detach().cpu().double()
            exponent = math.frexp(spectral(matrix))[1]
            half = exponent // 2  # in two steps, as 2**1074 is no float64
            found.append(matrix * 2.0**-half * 2.0 ** (half - exponent))
            norms.append(spectral(found[-1]))
            total += exponent
        pairs = zip(found[:-1], slopes, strict=True)
        ranges = [(low.to(w).expand(len(w)), high.to(w).expand(len(w))) for w, (low, high) in pairs]
        return Scaled(found, norms, ranges, total)

    def proved(self, value: float) -> ProvedBound:
        """Return what a bound of the scaled network proves of the network itself."""
        value = power_up(value, self.exponent) if math.isfinite(value) else math.inf
        return ProvedBound(value, "" if value < math.inf else "the bound is above the largest float64")


def spectral(matrix: Tensor) -> float:
    """Bound a spectral norm from above; inf where an entry is not finite. What scaling may have lost is included."""
    return float(matrix_norm(matrix)) * UP + UNDERFLOW if bool(torch.isfinite(matrix).all()) else math.inf


def frobenius(matrix: Tensor) -> float:
    """Bound a Frobenius norm from above; inf or NaN where an entry is not finite."""
    largest = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not 0 < largest < math.inf:
        return largest + UNDERFLOW
    return largest * float((matrix / largest).square().sum().sqrt()) * UP + UNDERFLOW


def product_error(left: Tensor, right: Tensor) -> float:
    """Bound ‖A B − fl(A B)‖ from above, also where each entry of A or B was rounded once or twice itself."""
    terms = left.shape[1] + 8
    return 2 * terms * _UNIT / (1 - terms * _UNIT) * frobenius(left) * frobenius(right) + UNDERFLOW
