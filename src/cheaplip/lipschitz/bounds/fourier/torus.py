r"""Frequencies of a torus of pixels, and convolutions as one matrix for each of them.

An image is put on a torus of N pixels per dimension. Its unitary Fourier transform at frequency k is
:math:`\hat x(k) = N^{-1/2} \sum_n x(n) e^{-2πi kn/N}`. PyTorch's convolution is a cross-correlation, so its matrix at
frequency k is :math:`\hat K(k) = \sum_t K_t e^{+2πi k (d t - p)/N}` for dilation d and padding p. Everything is real in
space, so the matrices at k and −k are conjugates, and half of the frequencies, on the last axis, are enough.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.operations import Convolution

__all__ = ["Torus", "transfer", "transfer_of_phases"]


@dataclass(frozen=True)
class Torus:
    """A torus of pixels, of one or more dimensions.

    Attributes:
        size: pixels in each dimension.
    """

    size: tuple[int, ...]

    def frequencies(self, device: torch.device) -> Tensor:
        """Return half of the frequencies, as whole numbers, (F, dimensions)."""
        axes = [torch.arange(n, device=device) for n in self.size[:-1]]
        half = torch.arange(self.size[-1] // 2 + 1, device=device)
        return torch.cartesian_prod(*axes, half).reshape(-1, len(self.size))

    def weights(self, device: torch.device) -> Tensor:
        """Return how many frequencies of the whole torus each one stands for, 1 or 2, (F,) float64."""
        return _weights(self, device)

    def aliases(self, stride: Sequence[int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Return where the frequencies lie that fall together when every ``stride``-th pixel is kept.

        Returns:
            For each of the ∏ stride aliases: for each frequency of the coarser torus, the position among this torus's
            frequencies, and whether the matrix there is the conjugate.
        """
        return _aliases(self, tuple(stride), device)

    def folded(self, values: Tensor, stride: Sequence[int]) -> Tensor:
        """Sum over the aliases of each frequency of the coarser torus, see :meth:`aliases`: (F, …) to (F', …)."""
        folded: Tensor = _Fold.apply(values, self.aliases(stride, values.device))  # type: ignore[no-untyped-call]
        return folded

    def transform(self, values: Tensor, axes: Sequence[Sequence[int]]) -> Tensor:
        r"""Return Σ_t v_t exp(2πi ⟨k, t⟩) for each frequency k.

        Args:
            values: v, (\*, T) float64, for the T pixels on the grid of these positions.
            axes: positions in each dimension, which may be negative.

        Returns:
            (F, \*) complex128.
        """
        waves = _waves(self, tuple(map(tuple, axes)), values.device)
        summed = values.reshape(-1, values.shape[-1]) @ waves  # real numbers: a quarter of the work
        pairs = torch.view_as_complex(summed.reshape(len(summed), -1, 2))
        return pairs.T.reshape(-1, *values.shape[:-1])

    def waves(self, positions: Tensor) -> Tensor:
        """Return exp(2πi ⟨k, position⟩) for each frequency and each position (T, dimensions) in pixels, (F, T)."""
        k = self.frequencies(positions.device)
        angle = torch.zeros(len(k), len(positions), dtype=torch.float64, device=positions.device)
        for axis, n in enumerate(self.size):  # whole numbers of turns are left out exactly
            angle = angle + (torch.outer(k[:, axis], positions[:, axis]) % n).double() / n
        return torch.polar(torch.ones_like(angle), 2 * math.pi * angle)


class _Fold(torch.autograd.Function):
    """The sum over aliases: lists of where they lie among the values, and of whether the conjugate is meant."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, aliases: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.aliases, ctx.count = aliases, len(values)
        return sum(_conjugated(values[places], where) for places, where in aliases)  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        spread = gradient.new_zeros(ctx.count, *gradient.shape[1:])
        for places, where in ctx.aliases:
            spread.index_add_(0, places, _conjugated(gradient.clone(), where))
        return spread, None


def _conjugated(values: Tensor, where: Tensor) -> Tensor:
    """Conjugate some of the values, in place."""
    values[where] = values[where].conj()
    return values


@lru_cache(maxsize=64)  # these are the same in every step of a training
def _weights(torus: Torus, device: torch.device) -> Tensor:
    last = torus.frequencies(device)[:, -1]
    alone = (last == 0) | (2 * last == torus.size[-1])
    return torch.where(alone, 1.0, 2.0).double()


@lru_cache(maxsize=64)
def _aliases(torus: Torus, stride: tuple[int, ...], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    coarse = Torus(tuple(n // s for n, s in zip(torus.size, stride, strict=True)))
    base = coarse.frequencies(device)
    sizes, steps = (torch.tensor(size, device=device) for size in (torus.size, coarse.size))
    found = []
    for shift in itertools.product(*(range(s) for s in stride)):
        k = base + torch.tensor(shift, device=device) * steps
        conjugate = k[:, -1] > torus.size[-1] // 2
        k = torch.where(conjugate.unsqueeze(1), (-k) % sizes, k)
        at = torch.zeros(len(k), dtype=torch.long, device=device)
        for axis, n in enumerate((*torus.size[:-1], torus.size[-1] // 2 + 1)):
            at = at * n + k[:, axis]
        found.append((at, conjugate))
    return found


@lru_cache(maxsize=64)
def _waves(torus: Torus, axes: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Return the real and imaginary parts of the waves at the pixels of a grid, (T, 2 F) float64."""
    ticks = [torch.tensor(axis, device=device) for axis in axes]
    positions = torch.cartesian_prod(*ticks).reshape(-1, len(axes))
    return torch.view_as_real(torus.waves(positions).T.contiguous()).flatten(1)


def transfer(convolution: Convolution, torus: Torus) -> tuple[Tensor, Tensor]:
    """Compute a convolution's matrix at each frequency, without its stride.

    Returns:
        The matrices of all groups, (F, groups, out, in) complex128, or (1, …) float64 where they are the same at every
        frequency; and Σ_t |K_t|, (1, groups, out, in), which bounds their entries, and their rounding errors in units
        of a few ε.
    """
    weight = convolution.weight().double()
    kernel = weight.shape[2:]
    weight = weight.reshape(convolution.groups, -1, *weight.shape[1:])
    sizes = weight.detach().abs().flatten(3).sum(dim=3).unsqueeze(0)
    if set(kernel) == {1} and not any(map(any, convolution.padding)):
        return weight.flatten(2).unsqueeze(0), sizes
    axes = [
        [t * d - before for t in range(k)]
        for k, d, (before, _) in zip(kernel, convolution.dilation, convolution.padding, strict=True)
    ]
    return torus.transform(weight.flatten(3), axes), sizes


def transfer_of_phases(convolution: Convolution, torus: Torus) -> tuple[Tensor, Tensor]:
    """Compute a strided convolution's matrix at each frequency of the coarser torus, for each phase of the stride.

    The pixels of a phase are those that lie in the same place of their ∏ stride neighbours; with white noise in space,
    the phases are independent of each other.

    Returns:
        (F, out, phases · in) complex128, and bounds of the entries, (out, phases · in).
    """
    weight, stride = _whole(convolution), convolution.stride
    coarse = Torus(tuple(n // s for n, s in zip(torus.size, stride, strict=True)))
    matrices, sizes = [], []
    for phase in itertools.product(*(range(s) for s in stride)):
        part, axes = weight, []
        for axis, (first, s, d) in enumerate(zip(phase, stride, convolution.dilation, strict=True)):
            before = convolution.padding[axis][0]
            taps = [t for t in range(weight.shape[2 + axis]) if (t * d - before) % s == first]
            part = part.index_select(2 + axis, torch.tensor(taps, dtype=torch.long, device=weight.device))
            axes.append([(t * d - before) // s for t in taps])
        if part.numel():
            matrices.append(coarse.transform(part.flatten(2), axes))
            sizes.append(part.detach().abs().flatten(2).sum(dim=2))
    return torch.cat(matrices, dim=2), torch.cat(sizes, dim=1)


def _whole(convolution: Convolution) -> Tensor:
    """Return the weight (out, in, *kernel) float64, with zeros between the groups."""
    weight, groups = convolution.weight().double(), convolution.groups
    if groups == 1:
        return weight
    out, per_group = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(groups, out, groups, per_group, *weight.shape[2:])
    each = torch.arange(groups, device=weight.device)
    whole[each, :, each] = weight.reshape(groups, out, *weight.shape[1:])
    return whole.reshape(groups * out, groups * per_group, *weight.shape[2:])
