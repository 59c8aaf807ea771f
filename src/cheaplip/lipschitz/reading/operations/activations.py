"""Elementwise activations, with the range of their slopes: on the whole line, and between two inputs.

The file is long because each activation has its own slopes, enclosure and pieces; each is a function of a few lines.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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
    "Jump",
    "Piece",
    "constant",
    "elu",
    "gelu",
    "hardtanh",
    "leaky_relu",
    "softplus",
    "stationary",
]

_INVISIBLE = 64.0  # threshold from which softplus's jump is far below the rounding of its value in float64
_THRESHOLD = 80.0  # up to which exp does not overflow, in float32 either
_FUNCTION_ERROR = 64 * EPS  # of φ or φ' evaluated in float64, relative to its value
_LONG_EXPONENT_ERROR = 1024 * EPS  # the same for exp(s x), whose argument, of up to 745 in size, is rounded first
_FAR = 50.0  # in units of x: beyond it, the smooth activations' second-order terms are below 1e-300

Piece = tuple[float, float, Callable[[Tensor], Tensor]]
"""An interval, and φ' on it, which is monotone there."""


class Jump(NamedTuple):
    """Where φ is not continuous: at one input it falls from ``high`` to ``low``."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Activation:
    """φ, applied to each entry, with the range of its slopes (φ(a) − φ(b)) / (a − b).

    Attributes:
        function: φ.
        slopes: smallest and largest slope on the whole line, between inputs on the same side of a jump.
        pieces: intervals that cover the line, with φ' monotone on each.
        turning: the inputs where φ changes direction.
        cancels: whether the computed φ(x) loses digits where it is much smaller than x, so that its error is relative
            to x.
        error: of the computed φ, relative to its value.
        jump: where φ is not continuous.
        flaw: why no slope bounds φ on the whole line, for messages; empty where one does.
    """

    function: Callable[[Tensor], Tensor]
    slopes: tuple[float, float]
    pieces: tuple[Piece, ...]
    turning: tuple[float, ...] = ()
    cancels: bool = False
    error: float = _FUNCTION_ERROR
    jump: Jump | None = None
    flaw: str = ""

    @property
    def secants(self) -> tuple[float, float]:
        """Smallest and largest slope between any two inputs, also across a jump."""
        return self.slopes if self.jump is None else (-math.inf, self.slopes[1])

    def slopes_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclose the slopes for inputs between ``low`` and ``high``, float64, rounded outwards."""
        least, most = torch.full_like(low, math.inf), torch.full_like(low, -math.inf)
        for start, end, derivative in self.pieces:
            meets = (low < end) & (high > start) | ((low == high) & (low >= start) & (low <= end))
            for at in (low.clamp(start, end), high.clamp(start, end)):
                value = derivative(at)
                least = torch.where(meets, torch.minimum(least, value), least)
                most = torch.where(meets, torch.maximum(most, value), most)
        margin = self.error * (1 + torch.maximum(least.abs(), most.abs()))
        least, most = (least - margin).clamp_min(self.slopes[0]), (most + margin).clamp_max(self.slopes[1])
        if self.jump is None:
            return least, most
        return torch.where(self._meets_jump(self.jump, low, high), -math.inf, least), most

    def values_between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Enclose the values for inputs between ``low`` and ``high``, float64, rounded outwards."""
        ends = [self.function(low), self.function(high)]
        ends += [self.function(torch.full_like(low, at).clamp(low, high)) for at in self.turning]
        least, most = torch.stack(ends).amin(dim=0), torch.stack(ends).amax(dim=0)
        size = torch.maximum(least.abs(), most.abs())
        if self.cancels:
            size = torch.maximum(size, torch.maximum(low.abs(), high.abs()))
        margin = self.error * size + UNDERFLOW
        if self.jump is not None:  # near the jump, rounding decides on which side an input is
            meets = self._meets_jump(self.jump, low, high)
            least = torch.where(meets, least.clamp_max(self.jump.low), least)
            most = torch.where(meets, most.clamp_min(self.jump.high), most)
        return least - margin, most + margin

    @staticmethod
    def _meets_jump(jump: Jump, low: Tensor, high: Tensor) -> Tensor:
        slack = 8 * EPS * abs(jump.at) + UNDERFLOW
        return (low <= jump.at + slack) & (high >= jump.at - slack)


def constant(value: float) -> Callable[[Tensor], Tensor]:
    """Return the slope of a linear piece."""
    return partial(torch.full_like, fill_value=value)


def _logistic(x: Tensor) -> Tensor:
    """Return the derivative of the sigmoid, computed without cancellation."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _gelu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    below: Tensor = torch.special.ndtr(x)
    return below + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


_CUBIC = 0.044715


def _tanh_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + _CUBIC * x**3))  # not torch's own, for ONNX


def _tanh_gelu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-_FAR, _FAR)
    inner = 2 * math.sqrt(2 / math.pi) * (x + _CUBIC * x**3)  # (1 + tanh(y)) / 2 = sigmoid(2 y)
    return torch.sigmoid(inner) + x * _logistic(inner) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * _CUBIC * x * x)


def _silu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-16 * _FAR, 16 * _FAR)
    return torch.sigmoid(x) + x * _logistic(x)


def stationary(derivative: Callable[[Tensor], Tensor], start: float, end: float) -> float:
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


RELU = Activation(torch.relu, (0.0, 1.0), ((-math.inf, 0.0, constant(0.0)), (0.0, math.inf, constant(1.0))))
ABSOLUTE = Activation(
    torch.abs, (-1.0, 1.0), ((-math.inf, 0.0, constant(-1.0)), (0.0, math.inf, constant(1.0))), turning=(0.0,)
)
SIGMOID = Activation(torch.sigmoid, (0.0, 0.25), ((-math.inf, 0.0, _logistic), (0.0, math.inf, _logistic)))
TANH = Activation(
    torch.tanh,
    (0.0, 1.0),
    tuple((a, b, lambda x: 4 * _logistic(2 * x)) for a, b in ((-math.inf, 0.0), (0.0, math.inf))),
)
SILU = _smooth(F.silu, _silu_slope, stationary(_silu_slope, 0.0, 10.0), turning=-1.2784645427610738)


def gelu(*, approximate: str = "none") -> Activation:
    """Make GELU, exact or approximated by tanh.

    The largest slope is (1 + erf 1) / 2 + 1 / (e √π) = 1.1289…; that of the approximation is close to it. Torch
    computes 1 + erf and 1 + tanh, which cancel for negative inputs.
    """
    function: Callable[[Tensor], Tensor] = partial(F.gelu, approximate=approximate)
    if approximate == "tanh":
        function = _tanh_gelu
        peak = stationary(_tanh_gelu_slope, 0.0, 10.0)
        return _smooth(function, _tanh_gelu_slope, peak, turning=-0.7524614220710162, cancels=True)
    return _smooth(function, _gelu_slope, math.sqrt(2), turning=-0.7517915246935645, cancels=True)


def leaky_relu(slope: float) -> Activation:
    """Make x for x > 0 and slope · x elsewhere.

    Raises:
        ValueError: the slope is not finite.
    """
    _check_finite(negative_slope=slope)
    pieces = ((-math.inf, 0.0, constant(slope)), (0.0, math.inf, constant(1.0)))
    turning = (0.0,) if slope < 0 else ()

    def function(x: Tensor) -> Tensor:  # torch's own takes the slope as a number, which ONNX rounds to float32
        return torch.where(x > 0, x, slope * x)

    return Activation(function, (min(slope, 1.0), max(slope, 1.0)), pieces, turning)


def elu(alpha: float, *, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    """Make ELU, CELU or SELU: scale · x for x > 0, scale · α · (exp(x · input_scale) − 1) elsewhere.

    With a negative ``input_scale``, such as that of CELU with negative α, the slopes grow without bound towards −∞.

    Raises:
        ValueError: an option is not finite.
    """
    _check_finite(alpha=alpha, scale=scale, input_scale=input_scale)

    def function(x: Tensor) -> Tensor:
        below = x.clamp_max(0.0) * input_scale
        shrunk = torch.tanh(below / 2) * (torch.exp(below) + 1)  # expm1, which ONNX computes as exp − 1, inexactly
        return scale * torch.where(x > 0, x, alpha * shrunk)

    def decay(x: Tensor) -> Tensor:
        return scale * alpha * input_scale * torch.exp(x.clamp_max(0.0) * input_scale)

    steep = scale * alpha * input_scale
    _check_finite(slope=steep)
    grows = input_scale < 0 and steep != 0
    far = math.copysign(math.inf, steep) if grows else 0.0
    ends = (far, steep * (1 + _FUNCTION_ERROR), steep * (1 - _FUNCTION_ERROR), scale)
    pieces = ((-math.inf, 0.0, decay), (0.0, math.inf, constant(scale)))
    return Activation(
        function,
        (min(ends), max(ends)),
        pieces,
        (0.0,) if steep * scale < 0 else (),
        error=_LONG_EXPONENT_ERROR if grows else _FUNCTION_ERROR,
        flaw=f"its slopes grow without bound for negative inputs, as alpha = {alpha:g} is negative" if grows else "",
    )


def softplus(beta: float, threshold: float) -> Activation:
    """Make log(1 + exp(β x)) / β, and x where β x is above the threshold, as torch does.

    Where torch switches to x, the function falls by log(1 + exp(−threshold)) / |β|, so that quotients across the switch
    are as large as the inputs are near. From a threshold of 64 on, that is far below the rounding of float64, and the
    function is taken to be log(1 + exp(β x)) / β everywhere.

    Raises:
        ValueError: β is 0 or not finite, or the threshold is NaN.
    """
    _check_finite(beta=beta)
    if beta == 0 or math.isnan(threshold):
        raise ValueError(f"expected beta other than 0 and a threshold, got {beta:g} and {threshold:g}")

    def slope(x: Tensor) -> Tensor:
        return torch.sigmoid(beta * x)

    function = partial(F.softplus, beta=beta, threshold=min(threshold, _THRESHOLD))
    switch = threshold / beta
    if threshold >= _INVISIBLE:
        return Activation(function, (0.0, 1.0), ((-math.inf, math.inf, slope),), cancels=True)
    if not math.isfinite(switch):  # never reached, or always
        _check_finite(switch=switch if math.isfinite(threshold) else 0.0)
        return Activation(lambda x: x + 0.0, (1.0, 1.0), ((-math.inf, math.inf, constant(1.0)),))
    soft, straight = (-math.inf, switch, slope), (switch, math.inf, constant(1.0))
    if beta < 0:
        soft, straight = (switch, math.inf, slope), (-math.inf, switch, constant(1.0))
    values = switch, (max(threshold, 0.0) + math.log1p(math.exp(-abs(threshold)))) / beta
    flaw = (
        f"it falls by {abs(values[0] - values[1]):.1g} where torch switches to the identity, at an input of "
        f"{switch:.6g}, so that no slope bounds it there: use Softplus(threshold={_THRESHOLD:g}), whose switch cannot "
        "be seen in float64, or a domain that does not reach it"
    )
    return Activation(
        function,
        (0.0, 1.0),
        tuple(sorted((soft, straight), key=lambda piece: piece[0])),
        cancels=True,  # the argument of exp is rounded
        jump=Jump(switch, min(values), max(values)),
        flaw=flaw,
    )


def hardtanh(low: float, high: float) -> Activation:
    """Make x between ``low`` and ``high``, and the nearer of the two elsewhere; ``high`` where that is below ``low``.

    Raises:
        ValueError: an end is NaN, or infinite on the wrong side, so that no value is finite.
    """
    if not (low < math.inf and high > -math.inf):
        raise ValueError(f"expected ends with finite values between them, got {low:g} and {high:g}")
    pieces = ((-math.inf, low, constant(0.0)), (low, high, constant(1.0)), (high, math.inf, constant(0.0)))

    def function(x: Tensor) -> Tensor:  # not clamp, of which the exporter to ONNX loses the ends
        raised = torch.where(x < low, low, x)
        return torch.where(raised > high, high, raised)

    return Activation(function, (0.0, 1.0), pieces)


def _check_finite(**options: float) -> None:
    for name, value in options.items():
        if not math.isfinite(value):
            raise ValueError(f"expected a finite {name}, got {value:g}")
