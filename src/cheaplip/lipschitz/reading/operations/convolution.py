"""Convolutions in any number of dimensions, padded with zeros or periodically."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cheaplip.lipschitz.reading.operations.interval import (
    Interval,
    Weight,
    add_bias,
    affine_interval,
    norms_above,
    size_of,
)
from cheaplip.lipschitz.rounding import EPS, UP
from cheaplip.lipschitz.spectral import convolution_norm, matrix_norm

__all__ = ["Convolution"]

_ENTRIES = 1 << 19  # of a convolution's matrix, up to which its spectral norm is computed from the matrix itself


@dataclass(frozen=True)
class Convolution:
    """A convolution over the last dimensions.

    Attributes:
        weight: (out, in / groups, \\*kernel).
        bias: (out, 1, …), or None.
        padding: (before, after) of each spatial dimension.
        stride, dilation: of each spatial dimension.
        groups: as in the layer.
        circular: padded periodically instead of with zeros.
        rounded: whether weight and bias are products of the layer's own and of another's, rounded to float64.
        terms: see :func:`~cheaplip.lipschitz.reading.operations.interval.size_of`.
    """

    weight: Weight
    bias: Weight | None
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    circular: bool = False
    rounded: bool = False
    terms: Weight | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return add_bias(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """Apply the map without its bias."""
        return self._convolve(x, self.weight().to(x.dtype))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        widths = [n for pair in reversed(self.padding) for n in pair]
        if any(widths):
            x = F.pad(x, widths, mode="circular" if self.circular else "constant")
        if torch.onnx.is_in_onnx_export():
            return self._by_taps(x, weight)
        convolve: Callable[..., Tensor] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
        return convolve(x, weight, None, self.stride, 0, self.dilation, self.groups)

    def _by_taps(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve the padded ``x`` as a sum of matrix products, one for each entry of the kernel.

        For ONNX: onnxruntime has no convolution in float64.
        """
        axes = list(zip(x.shape[2:], weight.shape[2:], self.stride, self.dilation, strict=True))
        size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes]
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for tap in product(*(range(k) for k in weight.shape[2:])):
            met, matrices = x, weight
            for dim, (at, m, (_, _, s, d)) in enumerate(zip(tap, size, axes, strict=True), start=2):
                met = met.transpose(2, dim)[:, :, at * d : at * d + s * (m - 1) + 1 : s].transpose(2, dim)
                matrices = matrices[:, :, at]
            grouped = met.reshape(x.shape[0], self.groups, -1, math.prod(size))
            total = total + matrices.reshape(self.groups, -1, weight.shape[1]) @ grouped
        return total.reshape(x.shape[0], -1, *size)

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Bound the operator norm: the spectral norm (2), the largest row sum (inf) or column sum (1)."""
        if norm == 2:
            with torch.no_grad():
                return float(self.spectral_norm(shape))
        weight = self.weight().detach().abs()
        if norm == math.inf:
            return float(weight.flatten(1).sum(dim=1).max()) * UP
        # each entry of the padded image meets each tap of its channel at most once
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        return float(grouped.sum(dim=1).flatten(2).sum(dim=2).max()) * self._copies(shape[1:]) * UP

    def spectral_norm(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the spectral norm from above, differentiably in the weight.

        A small convolution is written out as a matrix; for the others see :mod:`cheaplip.lipschitz.spectral`.
        """
        weight, size = self.weight(), shape[1:]
        if math.prod(shape) * weight.shape[0] * math.prod(self._padded(size)) <= _ENTRIES:
            eye = torch.eye(math.prod(shape), dtype=torch.float64, device=weight.device).reshape(-1, *shape)
            bound = matrix_norm(self._convolve(eye, weight).flatten(1))
            if not self.circular:
                return bound
            # an entry that meets several taps of a filter has the rounded sum of them
            largest = torch.linalg.vector_norm(self._convolve(eye, weight.detach().abs()))
            return bound + 4 * math.prod(weight.shape[2:]) * EPS * float(largest)
        return self.norm_by_frequencies(size)

    def norm_by_frequencies(self, size: tuple[int, ...]) -> Tensor:
        """Bound the spectral norm by that of a periodic convolution, of which this one is a part.

        Args:
            size: of the image, per spatial dimension.
        """
        weight, padded = self.weight(), self._padded(size)
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, weight.shape[2:], strict=True)]
        periodic = self.circular and set(self.stride) == {1}
        periodic = periodic and min(map(min, self.padding)) >= 0  # what negative padding crops is not wrapped
        periodic = periodic and all(p - s + 1 == n for p, s, n in zip(padded, spans, size, strict=True))
        bound = convolution_norm(
            weight,
            size if periodic else padded,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            circular=periodic,
        )
        copies = 1 if periodic else self._copies(size)
        return bound if copies == 1 else bound * math.sqrt(copies) * UP

    def _padded(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n + sum(pair) for n, pair in zip(size, self.padding, strict=True))

    def _copies(self, size: tuple[int, ...]) -> int:
        """Count how often periodic padding repeats an entry, at most."""
        if not self.circular:
            return 1
        copies = 1
        for n, pair in zip(size, self.padding, strict=True):
            places = F.pad(torch.arange(n, dtype=torch.float64).reshape(1, 1, n), pair, mode="circular")
            copies *= int(torch.bincount(places.flatten().long()).max())
        return copies

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the Euclidean norm of each output's row from above; broadcasts to the output."""
        weight = self.weight().detach()
        # with periodic padding, one entry may meet several taps of a filter: then the sum of |taps| bounds the row
        norms = weight.abs().flatten(1).sum(dim=1) * UP if self.circular else norms_above(weight.flatten(1))
        return norms.reshape(-1, *[1] * (weight.dim() - 2))

    def interval(self, x: Interval) -> Interval:
        """Enclose the values: A c + b ± |A| r, for centre c and radius r of the input's interval."""
        weight = self.weight().detach()
        terms = math.prod(weight.shape[1:])
        size = size_of(self.bias, self.terms)
        return affine_interval(x, self.__call__, lambda r: self._convolve(r, weight.abs()), size, terms)
