"""Elementwise activations, with the range of their slopes: on the whole line, and between two inputs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cheaplip.lipschitz.rounding import EPS, UNDERFLOW

__all__ = [
    "ABSOLUTE",
    "RELU",
    "SIGMOID",
    "SILU",
    "TANH",
    "Activation",
    "elu",
    "gelu",
    "hardtanh",
    "leaky_relu",
    "softplus",
]

_FUNCTION_ERROR = 64 * EPS  # of φ or φ' evaluated in float64, relative to its value
_FAR = 50.0  # in units of x: beyond it, the smooth activations' second-order terms are below 1e-300

Piece = tuple[float, float, Callable[[Tensor], Tensor]]
"""An interval, and φ' on it, which is monotone there."""


@dataclass(frozen=True)
class Activation:
    """φ, applied to each entry, with the range of its slopes (φ(a) − φ(b)) / (a − b).

    Attributes:
        function: φ.
        slopes: smallest and largest slope on the whole line.
        pieces: intervals that cover the line, with φ' monotone on each.
        turning: the inputs where φ changes direction.
        cancels: whether the computed φ(x) loses digits where it is much smaller than x, so that its error is relative
            to x.
    """

    function: Callable[[Tensor], Tensor]
    slopes: tuple[float, float]
    pieces: tuple[Piece, ...]
    turning: tuple[float, ...] = ()
    cancels: bool = False

    def slopes_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclose the slopes for inputs between ``low`` and ``high``, float64, rounded outwards."""
        least, most = torch.full_like(low, math.inf), torch.full_like(low, -math.inf)
        for start, end, derivative in self.pieces:
            meets = (low < end) & (high > start) | ((low == high) & (low >= start) & (low <= end))
            for at in (low.clamp(start, end), high.clamp(start, end)):
                value = derivative(at)
                least = torch.where(meets, torch.minimum(least, value), least)
                most = torch.where(meets, torch.maximum(most, value), most)
        margin = _FUNCTION_ERROR * (1 + torch.maximum(least.abs(), most.abs()))
        return (least - margin).clamp_min(self.slopes[0]), (most + margin).clamp_max(self.slopes[1])

    def values_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclose the values for inputs between ``low`` and ``high``, float64, rounded outwards."""
        ends = [self.function(low), self.function(high)]
        ends += [self.function(torch.full_like(low, at).clamp(low, high)) for at in self.turning]
        least, most = torch.stack(ends).amin(dim=0), torch.stack(ends).amax(dim=0)
        size = torch.maximum(least.abs(), most.abs())
        if self.cancels:
            size = torch.maximum(size, torch.maximum(low.abs(), high.abs()))
        margin = _FUNCTION_ERROR * size + UNDERFLOW
        return least - margin, most + margin


def _constant(value: float) -> Callable[[Tensor], Tensor]:
    return partial(torch.full_like, fill_value=value)


def _logistic(x: Tensor) -> Tensor:
    """Return the derivative of the sigmoid, computed without cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _gelu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    below: Tensor = torch.special.ndtr(x)
    return below + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


_CUBIC = 0.044715


def _tanh_gelu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    inner = 2 * math.sqrt(2 / math.pi) * (x + _CUBIC * x**3)  # (1 + tanh(y)) / 2 = sigmoid(2 y)
    return torch.sigmoid(inner) + x * _logistic(inner) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * _CUBIC * x * x)


def _silu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-16 * _FAR, 16 * _FAR)
    return torch.sigmoid(x) + x * _logistic(x)


def _stationary(derivative: Callable[[Tensor], Tensor], start: float, end: float) -> float:
    """Find the maximum of a slope that has one between ``start`` and ``end``, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    while end - start > 1e-7:  # the value is then exact to 1e-14
        left, right = end - ratio * (end - start), start + ratio * (end - start)
        at = derivative(torch.tensor([left, right], dtype=torch.float64))
        start, end = (left, end) if at[0] < at[1] else (start, right)
    return (start + end) / 2


def _smooth(
    function: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    peak: float,
    turning: float,
    *,
    cancels: bool = False,
) -> Activation:
    """Make an activation φ with φ(x) − x/2 even, whose slope is largest at ``peak``.

    As φ'(−x) = 1 − φ'(x), it is smallest at −``peak``.
    """
    top = float(slope(torch.tensor(peak, dtype=torch.float64))) * (1 + _FUNCTION_ERROR)
    pieces = tuple((a, b, slope) for a, b in ((-math.inf, -peak), (-peak, peak), (peak, math.inf)))
    return Activation(function, (1 - top, top), pieces, (turning,), cancels)


RELU = Activation(torch.relu, (0.0, 1.0), ((-math.inf, 0.0, _constant(0.0)), (0.0, math.inf, _constant(1.0))))
ABSOLUTE = Activation(
    torch.abs, (-1.0, 1.0), ((-math.inf, 0.0, _constant(-1.0)), (0.0, math.inf, _constant(1.0))), turning=(0.0,)
)
SIGMOID = Activation(torch.sigmoid, (0.0, 0.25), ((-math.inf, 0.0, _logistic), (0.0, math.inf, _logistic)))
TANH = Activation(
    torch.tanh,
    (0.0, 1.0),
    tuple((a, b, lambda x: 4 * _logistic(2 * x)) for a, b in ((-math.inf, 0.0), (0.0, math.inf))),
)
SILU = _smooth(F.silu, _silu_slope, _stationary(_silu_slope, 0.0, 10.0), turning=-1.2784645427610738)


def gelu(*, approximate: str = "none") -> Activation:
    """Make GELU, exact or approximated by tanh.

    The largest slope is (1 + erf 1) / 2 + 1 / (e √π) = 1.1289…; that of the approximation is close to it. Torch
    computes 1 + erf and 1 + tanh, which cancel for negative inputs.
    """
    function = partial(F.gelu, approximate=approximate)
    if approximate == "tanh":
        peak = _stationary(_tanh_gelu_slope, 0.0, 10.0)
        return _smooth(function, _tanh_gelu_slope, peak, turning=-0.7524614220710162, cancels=True)
    return _smooth(function, _gelu_slope, math.sqrt(2), turning=-0.7517915246935645, cancels=True)


def leaky_relu(slope: float) -> Activation:
    """Make x for x > 0 and slope · x elsewhere."""
    pieces = ((-math.inf, 0.0, _constant(slope)), (0.0, math.inf, _constant(1.0)))
    turning = (0.0,) if slope < 0 else ()
    return Activation(partial(F.leaky_relu, negative_slope=slope), (min(slope, 1.0), max(slope, 1.0)), pieces, turning)


def elu(alpha: float, *, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    """Make ELU, CELU or SELU: scale · x for x > 0, scale · α · (exp(x · input_scale) − 1) elsewhere."""

    def function(x: Tensor) -> Tensor:
        return scale * torch.where(x > 0, x, alpha * torch.expm1(x.clamp_max(0.0) * input_scale))

    def decay(x: Tensor) -> Tensor:
        return scale * alpha * input_scale * torch.exp(x.clamp_max(0.0) * input_scale)

    steep = scale * alpha * input_scale
    ends = (0.0, steep * (1 + _FUNCTION_ERROR), scale)
    pieces = ((-math.inf, 0.0, decay), (0.0, math.inf, _constant(scale)))
    return Activation(function, (min(ends), max(ends)), pieces, (0.0,) if steep * scale < 0 else ())


def softplus(beta: float, threshold: float) -> Activation:
    """Make log(1 + exp(β x)) / β.

    Beyond ``threshold``, torch switches to the identity, which differs by exp(−threshold) / β.
    """

    def slope(x: Tensor) -> Tensor:
        return torch.sigmoid(beta * x)

    function = partial(F.softplus, beta=beta, threshold=threshold)
    return Activation(function, (0.0, 1.0), ((-math.inf, math.inf, slope),))


def hardtanh(low: float, high: float) -> Activation:
    """Make x between ``low`` and ``high``, and the nearer of the two elsewhere."""
    pieces = ((-math.inf, low, _constant(0.0)), (low, high, _constant(1.0)), (high, math.inf, _constant(0.0)))
    return Activation(partial(torch.clamp, min=low, max=high), (0.0, 1.0), pieces)
