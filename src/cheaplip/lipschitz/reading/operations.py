"""What a chain is made of: affine maps, elementwise activations, maps with a known Lipschitz constant, sums.

Each operation evaluates (in the type of its input), bounds its own Lipschitz constant, and maps intervals to intervals.
Everything is rounded outwards: ``(low, high)`` holds the exact result of the exact operation.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cheaplip.lipschitz.reading.activations import Activation
from cheaplip.lipschitz.spectral import convolution_norm, matrix_norm

__all__ = [
    "Affine",
    "Concatenation",
    "Contraction",
    "Convolution",
    "Elementwise",
    "Interval",
    "Matrix",
    "Nonnegative",
    "Operation",
    "Reshape",
    "Scaling",
    "Sum",
]

Weight = Callable[[], Tensor]
"""Gives the layer's present weight in float64, so that a chain follows its model through training."""

Interval = tuple[Tensor, Tensor]
"""Smallest and largest values, each (1, \\*shape) float64."""

_EPS = torch.finfo(torch.float64).eps
_SMALL = 1 << 19  # entries of a convolution's matrix, up to which its norm is computed from that
_UP = 1 + 1e-12  # for sums of a few million positive terms, and products


@dataclass(frozen=True)
class Matrix:
    """x ↦ W x + b over the last dimension."""

    weight: Weight
    bias: Weight | None

    def __call__(self, x: Tensor) -> Tensor:
        return _plus(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """The map without its constant."""
        return F.linear(x, self.weight().to(x.dtype))

    def lipschitz(self, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """From above: the spectral norm, the largest row sum (inf) or column sum (1) of |W|."""
        if norm == 2:
            return _number(self, shapes[0])
        weight = self.weight().detach()
        return float(weight.abs().sum(dim=1 if norm == math.inf else 0).max()) * _UP

    def stretch(self, shape: tuple[int, ...]) -> Tensor:
        """The spectral norm from above, differentiable in the weight."""
        return matrix_norm(self.weight())

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Euclidean norm of each output's row, from above; broadcasts to the output."""
        norms: Tensor = torch.linalg.vector_norm(self.weight().detach(), dim=1)
        return norms * _UP

    def interval(self, x: Interval) -> Interval:
        """Centre and radius: W c + b ± |W| r."""
        weight = self.weight().detach()
        return _centred(x, self.__call__, lambda r: F.linear(r, weight.abs()), self.bias, weight.shape[1])


@dataclass(frozen=True)
class Convolution:
    """A convolution over the last dimensions, padded with zeros or periodically.

    Attributes:
        weight: (out, in / groups, \\*kernel).
        bias: (out, 1, …), or None.
        padding: (before, after) of each spatial dimension.
        stride, dilation: of each spatial dimension.
        groups: as in the layer.
        circular: padded periodically.
    """

    weight: Weight
    bias: Weight | None
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    circular: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        return _plus(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """The map without its constant."""
        return self._convolve(x, self.weight().to(x.dtype))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        widths = [n for pair in reversed(self.padding) for n in pair]
        if any(widths):
            x = F.pad(x, widths, mode="circular" if self.circular else "constant")
        if torch.onnx.is_in_onnx_export():
            return self._by_taps(x, weight)
        convolve: Callable[..., Tensor] = {3: F.conv1d, 4: F.conv2d}[x.dim()]
        return convolve(x, weight, None, self.stride, 0, self.dilation, self.groups)

    def _by_taps(self, x: Tensor, weight: Tensor) -> Tensor:
        """The sum over the taps of matrix products: onnxruntime has no convolution in float64. ``x`` is padded."""
        steps = list(zip(x.shape[2:], weight.shape[2:], self.stride, self.dilation, strict=True))
        size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in steps]
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for tap in product(*(range(k) for k in weight.shape[2:])):
            met, matrices = x, weight
            for dim, (at, m, (_, _, s, d)) in enumerate(zip(tap, size, steps, strict=True), start=2):
                met = met.transpose(2, dim)[:, :, at * d : at * d + s * (m - 1) + 1 : s].transpose(2, dim)
                matrices = matrices[:, :, at]
            grouped = met.reshape(x.shape[0], self.groups, -1, math.prod(size))
            total = total + matrices.reshape(self.groups, -1, weight.shape[1]) @ grouped
        return total.reshape(x.shape[0], -1, *size)

    def lipschitz(self, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """From above."""
        if norm == 2:
            return _number(self, shapes[0])
        weight = self.weight().detach().abs()
        if norm == math.inf:
            return float(weight.flatten(1).sum(dim=1).max()) * _UP
        # an entry meets each tap of its channel once, or each of its copies does
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        return float(grouped.sum(dim=1).flatten(2).sum(dim=2).max()) * self._copies(shapes[0][1:]) * _UP

    def stretch(self, shape: tuple[int, ...]) -> Tensor:
        """The spectral norm from above, see :mod:`cheaplip.lipschitz.spectral`; differentiable in the weight."""
        weight, size = self.weight(), shape[1:]
        padded = self._padded(size)
        if math.prod(shape) * weight.shape[0] * math.prod(padded) <= _SMALL:  # written out
            eye = torch.eye(math.prod(shape), dtype=torch.float64, device=weight.device)
            return matrix_norm(self._convolve(eye.reshape(-1, *shape), weight).flatten(1))
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, weight.shape[2:], strict=True)]
        periodic = self.circular and set(self.stride) == {1}
        periodic = periodic and all(p - s + 1 == n for p, s, n in zip(padded, spans, size, strict=True))
        bound = convolution_norm(
            weight,
            size if periodic else padded,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            circular=periodic,
        )
        return bound if periodic else bound * math.sqrt(self._copies(size)) * _UP

    def _padded(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n + sum(pair) for n, pair in zip(size, self.padding, strict=True))

    def _copies(self, size: tuple[int, ...]) -> int:
        """Of an entry, in the padded image."""
        if not self.circular:
            return 1
        return math.prod(-(-p // n) for p, n in zip(self._padded(size), size, strict=True))

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Euclidean norm of each output's row, from above; broadcasts to the output."""
        weight = self.weight().detach()
        # around a small torus one entry may meet several taps of a filter: then the sum of |taps| bounds the row
        norms = weight.abs().flatten(1).sum(dim=1) if self.circular else weight.flatten(1).norm(dim=1)
        return norms.reshape(-1, *[1] * (weight.dim() - 2)) * _UP

    def interval(self, x: Interval) -> Interval:
        """Centre and radius."""
        weight = self.weight().detach()
        return _centred(
            x, self.__call__, lambda r: self._convolve(r, weight.abs()), self.bias, math.prod(weight.shape[1:])
        )


@dataclass(frozen=True)
class Scaling:
    """x ↦ s ⊙ x + b, with s and b that broadcast to one input."""

    scale: Weight
    bias: Weight | None

    def __call__(self, x: Tensor) -> Tensor:
        return _plus(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """The map without its constant."""
        return x * self.scale().to(x.dtype)

    def lipschitz(self, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """The largest |s|, in every norm."""
        return _number(self, shapes[0])

    def stretch(self, shape: tuple[int, ...]) -> Tensor:
        """The same, differentiable in s."""
        return self.scale().abs().max()

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """|s|."""
        return self.scale().detach().abs()

    def interval(self, x: Interval) -> Interval:
        """Centre and radius."""
        return _centred(x, self.__call__, lambda r: r * self.scale().detach().abs(), self.bias, 1)


@dataclass(frozen=True)
class Nonnegative:
    """A linear map whose matrix has no negative entry: reshaping, padding with zeros or copies, averages."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    linear = __call__

    def lipschitz(self, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """Row sums (inf), column sums (1), and the root of their product (2, Schur's test)."""
        with torch.enable_grad():
            ones = torch.ones(1, *shapes[0], dtype=torch.float64, requires_grad=True)
            sums = self.function(ones)
            columns = torch.autograd.grad(sums.sum(), ones)[0]
        row, column = float(sums.detach().max()), float(columns.max())
        return {math.inf: row, 1: column, 2: math.sqrt(row * column)}[norm] * _UP

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Row sums, which are larger."""
        return self.function(torch.ones(1, *shape, dtype=torch.float64)) * _UP

    def interval(self, x: Interval) -> Interval:
        """Monotone."""
        low, high = (self.function(end) for end in x)
        margin = 4 * math.prod(x[0].shape) * _EPS * self.function(torch.maximum(x[0].abs(), x[1].abs()))
        return low - margin, high + margin


class Reshape(Nonnegative):
    """Every value stays, in the same order."""


@dataclass(frozen=True)
class Elementwise:
    """φ of every entry."""

    activation: Activation

    def __call__(self, x: Tensor) -> Tensor:
        return self.activation.function(x)

    def lipschitz(self, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """The steepest slope, in every norm."""
        return max(map(abs, self.activation.slopes))

    def interval(self, x: Interval) -> Interval:
        """The values between the ends."""
        return self.activation.values_between(*x)


@dataclass(frozen=True)
class Contraction:
    """A map that is neither affine nor elementwise, with its Lipschitz constants.

    Attributes:
        function: the map.
        constants: by norm, functions of the input's shape; a norm that is missing is not known.
        kind: what it is, for messages.
        monotone: each output grows with each input.
    """

    function: Callable[[Tensor], Tensor]
    constants: Mapping[float, Callable[[tuple[int, ...]], float]]
    kind: str
    monotone: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def lipschitz(self, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """The known constant, or inf."""
        constant = self.constants.get(norm)
        return math.inf if constant is None else constant(shapes[0])

    def interval(self, x: Interval) -> Interval:
        """The values of the ends where the map is monotone; elsewhere those of the middle, and what Lip allows."""
        low, high = x
        if self.monotone:
            return self.function(low), self.function(high)
        constant = self.constants.get(math.inf)
        middle = self.function((low + high) / 2)
        if constant is None:
            return torch.full_like(middle, -math.inf), torch.full_like(middle, math.inf)
        radius = ((high - low) / 2).flatten(1).amax(dim=1).reshape(-1, *[1] * (middle.dim() - 1))
        reach = constant(tuple(low.shape[1:])) * radius * _UP + 1e-13 * (1 + middle.abs())
        return middle - reach, middle + reach


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
        """Sums of the ends."""
        pairs = list(zip(self.factors, terms, strict=True))
        low = sum((f * (x[0] if f >= 0 else x[1]) for f, x in pairs), torch.zeros((), dtype=torch.float64))
        high = sum((f * (x[1] if f >= 0 else x[0]) for f, x in pairs), torch.zeros((), dtype=torch.float64))
        margin = 4 * len(terms) * _EPS * sum(abs(f) * torch.maximum(x[0].abs(), x[1].abs()) for f, x in pairs)
        return low - margin, high + margin


@dataclass(frozen=True)
class Concatenation:
    """x₁, x₂, … side by side along a dimension (the batch is dimension 0)."""

    dim: int

    def __call__(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, self.dim)

    linear = __call__

    def interval(self, *parts: Interval) -> Interval:
        """Side by side."""
        return torch.cat([p[0] for p in parts], self.dim), torch.cat([p[1] for p in parts], self.dim)


Affine = Matrix | Convolution | Scaling | Nonnegative
Operation = Affine | Elementwise | Contraction | Sum | Concatenation


def _number(operation: Matrix | Convolution | Scaling, shape: tuple[int, ...]) -> float:
    with torch.no_grad():
        return float(operation.stretch(shape))


def _plus(x: Tensor, bias: Weight | None) -> Tensor:
    return x if bias is None else x + bias().to(x.dtype)


def _centred(
    x: Interval,
    function: Callable[[Tensor], Tensor],
    absolute: Callable[[Tensor], Tensor],
    bias: Weight | None,
    terms: int,
) -> Interval:
    """f(c) ± |A| r, and the rounding of sums of ``terms`` products of all but |A| max(|low|, |high|) + |b|."""
    low, high = x
    centre, radius = (low + high) / 2, (high - low) / 2
    largest: Any = absolute(torch.maximum(low.abs(), high.abs()))
    if bias is not None:
        largest = largest + bias().detach().abs()
    middle = function(centre).detach()
    reach = absolute(radius) + 4 * (terms + 8) * _EPS * largest
    return middle - reach, middle + reach
