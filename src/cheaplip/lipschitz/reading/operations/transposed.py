"""Transposed convolutions in any number of dimensions: the adjoints of convolutions."""

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
from cheaplip.lipschitz.rounding import UP

__all__ = ["TransposedConvolution"]


@dataclass(frozen=True)
class TransposedConvolution:
    """The adjoint of a convolution over the last dimensions, plus a bias.

    Attributes:
        weight: (in, out / groups, \\*kernel).
        bias: (out, 1, …), or None.
        padding, stride, dilation, output_padding: of each spatial dimension.
        groups: as in the layer.
    """

    weight: Weight
    bias: Weight | None
    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int

    def __call__(self, x: Tensor) -> Tensor:
        return add_bias(self.linear(x), self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """Apply the map without its bias."""
        return self._apply(x, self.weight().to(x.dtype))

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self._by_convolution(x, weight)
        transposed: Callable[..., Tensor]
        transposed = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[x.dim()]
        return transposed(x, weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def _by_convolution(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve ``x``, with zeros between its entries, with the mirrored kernel: for ONNX, see ``Convolution``."""
        spans = [d * (k - 1) for d, k in zip(self.dilation, weight.shape[2:], strict=True)]
        for dim, s in enumerate(self.stride, start=2):
            if s > 1:
                spread = F.pad(x.movedim(dim, -1).unsqueeze(-1), (0, s - 1)).flatten(-2)
                x = spread[..., : spread.shape[-1] - s + 1].movedim(-1, dim)
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        padding = tuple(
            (span - p, span - p + more) for span, p, more in zip(spans, self.padding, self.output_padding, strict=True)
        )
        mirrored = grouped.flip(tuple(range(2, weight.dim())))
        ones = (1,) * len(spans)
        return Convolution(lambda: mirrored, None, padding, ones, self.dilation, self.groups).linear(x)

    def _adjoint(self) -> Convolution:
        padding = tuple((p, p) for p in self.padding)
        return Convolution(self.weight, None, padding, self.stride, self.dilation, self.groups)

    def _out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        kernel, channels = self.weight().shape[2:], self.weight().shape[1] * self.groups
        parts = zip(shape[1:], self.stride, self.padding, self.dilation, kernel, self.output_padding, strict=True)
        return (channels, *((n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, s, p, d, k, more in parts))

    def lipschitz(self, norm: float, shape: tuple[int, ...]) -> float:
        """Bound the operator norm, which is that of the adjoint, with the norms 1 and inf exchanged."""
        if norm == 2:
            with torch.no_grad():
                return float(self.spectral_norm(shape))
        weight = self.weight().detach().abs()
        if norm == 1:
            return float(weight.flatten(1).sum(dim=1).max()) * UP
        return float(self._apply(weight.new_ones(1, *shape), weight).max()) * UP

    def spectral_norm(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the spectral norm from above, differentiably in the weight."""
        return self._adjoint().spectral_norm(self._out_shape(shape))

    def row_norms(self, shape: tuple[int, ...]) -> Tensor:
        """Bound the Euclidean norm of each output's row from above; broadcasts to the output."""
        weight = self.weight().detach()
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        return norms_above(grouped.flatten(1)).reshape(-1, *[1] * (weight.dim() - 2))

    def interval(self, x: Interval) -> Interval:
        """Enclose the values: A c + b ± |A| r, for centre c and radius r of the input's interval."""
        weight = self.weight().detach()
        terms = math.prod(weight.shape[2:]) * weight.shape[0] // self.groups
        size = size_of(self.bias, None)
        return affine_interval(x, self.__call__, lambda r: self._apply(r, weight.abs()), size, terms)
