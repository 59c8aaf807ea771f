"""Less common elementwise functions: more activations, and functions that have slopes on a bounded domain alone."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cheaplip.lipschitz.reading.operations.activations import Activation, constant, stationary
from cheaplip.lipschitz.rounding import EPS

__all__ = ["EXP", "HARDSIGMOID", "HARDSWISH", "LOGSIGMOID", "MISH", "RECIPROCAL", "SOFTSIGN", "SQUARE", "softshrink"]

_FAR = 700.0  # beyond it, exp(−|x|) is below 1e-300
_BOUNDED = "on all of space no slope bounds it: give a bounded domain, such as domain=Box(0.0, 1.0)"


def _hardsigmoid(x: Tensor) -> Tensor:
    shifted = (x + 3) / 6
    raised = torch.where(shifted < 0, 0 * shifted, shifted)
    return torch.where(raised > 1, 0 * raised + 1, raised)


def _mish_gate(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh(softplus(x)) and 1 minus it, both without cancellation or overflow."""
    small = torch.exp(-x.abs())
    top = torch.where(x > 0, 1 + 2 * small, small * (small + 2))
    rest = torch.where(x > 0, 2 * small * small, 2 + 0 * small)
    return top / (top + rest), rest / (top + rest)


def _mish(x: Tensor) -> Tensor:
    return x * _mish_gate(x)[0]


def _mish_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    gate, rest = _mish_gate(x)
    return gate + x * rest * (1 + gate) * torch.sigmoid(x)


def _make_mish() -> Activation:
    peak = stationary(_mish_slope, 0.0, 10.0)
    pit = stationary(lambda x: -_mish_slope(x), -10.0, 0.0)
    bottom = stationary(lambda x: -_mish(x), -10.0, 0.0)
    ends = [float(_mish_slope(torch.tensor(at, dtype=torch.float64))) for at in (pit, peak)]
    slopes = (ends[0] * (1 + 64 * EPS), ends[1] * (1 + 64 * EPS))
    borders = (-math.inf, pit, peak, math.inf)
    pieces = tuple((borders[i], borders[i + 1], _mish_slope) for i in range(3))
    return Activation(_mish, slopes, pieces, (bottom,), cancels=True)


HARDSIGMOID = Activation(
    _hardsigmoid,
    (0.0, (1 + EPS) / 6),
    ((-math.inf, -3.0, constant(0.0)), (-3.0, 3.0, constant((1 + EPS) / 6)), (3.0, math.inf, constant(0.0))),
    cancels=True,
)
HARDSWISH = Activation(
    lambda x: x * _hardsigmoid(x),
    (-0.5, 1.5),
    ((-math.inf, -3.0, constant(0.0)), (-3.0, 3.0, lambda x: x / 3 + 0.5), (3.0, math.inf, constant(1.0))),
    turning=(-1.5,),
    cancels=True,
)
MISH = _make_mish()
LOGSIGMOID = Activation(F.logsigmoid, (0.0, 1.0), ((-math.inf, math.inf, lambda x: torch.sigmoid(-x)),), cancels=True)
SOFTSIGN = Activation(
    lambda x: x / (1 + x.abs()),
    (0.0, 1.0),
    tuple((a, b, lambda x: 1 / (1 + x.abs()) ** 2) for a, b in ((-math.inf, 0.0), (0.0, math.inf))),
)
SQUARE = Activation(
    lambda x: x * x,
    (-math.inf, math.inf),
    ((-math.inf, math.inf, lambda x: 2 * x),),
    turning=(0.0,),
    flaw=f"a square: {_BOUNDED}",
)
EXP = Activation(
    torch.exp,
    (0.0, math.inf),
    ((-math.inf, math.inf, torch.exp),),
    error=1024 * EPS,  # the argument, of up to 709 in size, is rounded
    flaw=f"an exponential: {_BOUNDED}",
)


@dataclass(frozen=True)
class _Pole(Activation):
    """A function with a pole at 0, where neither values nor slopes are bounded."""

    def values_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        least, most = super().values_between(low, high)
        meets = (low <= 0) & (high >= 0)
        return torch.where(meets, -math.inf, least), torch.where(meets, math.inf, most)

    def slopes_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        least, most = super().slopes_between(low, high)
        meets = (low <= 0) & (high >= 0)
        return torch.where(meets, self.slopes[0], least), torch.where(meets, self.slopes[1], most)


RECIPROCAL = _Pole(
    lambda x: 1 / x,
    (-math.inf, 0.0),
    tuple((a, b, lambda x: -1 / (x * x)) for a, b in ((-math.inf, 0.0), (0.0, math.inf))),
    flaw="a division by a value that depends on the input: it has slopes only on a bounded domain where the divisor "
    "stays away from 0, such as domain=Box(0.0, 1.0)",
)


def softshrink(threshold: float) -> Activation:
    """Make x − λ for x > λ, x + λ for x < −λ, and 0 between.

    Raises:
        ValueError: the threshold is negative or NaN: the function jumps there.
    """
    if not threshold >= 0:
        raise ValueError(f"expected a threshold of 0 or more, got {threshold:g}")

    def function(x: Tensor) -> Tensor:
        outside = torch.where(x > threshold, x - threshold, x + threshold)
        return torch.where(x.abs() > threshold, outside, 0 * x)

    pieces = (
        (-math.inf, -threshold, constant(1.0)),
        (-threshold, threshold, constant(0.0)),
        (threshold, math.inf, constant(1.0)),
    )
    return Activation(function, (0.0, 1.0), pieces, cancels=True)
