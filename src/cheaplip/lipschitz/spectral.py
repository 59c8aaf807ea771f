"""Upper bounds of spectral norms, of matrices and of convolutions; unlike a power iteration, they are never too small.

Where the weight requires a gradient, a bound has the gradient of the largest singular value, uᴴ dW v for its singular
vectors u and v: of the one matrix in the stack, or at the one frequency, that attains it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.rounding import EPS, above, power_up

__all__ = ["convolution_norm", "matrix_norm"]

_EIGENVALUES = 1500  # largest side whose eigenvalues are computed; beyond it, Gram iterations
_ITERATIONS = 7
_CHUNK = 1 << 22  # entries of the matrices held at once
_SURVIVORS = 64  # most frequencies whose eigenvalues are computed
_POWER_STEPS = 100  # towards the singular vector of a large matrix, for its gradient alone


def matrix_norm(weight: Tensor) -> Tensor:
    r"""Bound the largest singular value of all matrices in a stack from above.

    Computed from the smaller Gram matrix G: from its eigenvalues, or for large ones
    :math:`\sigma^2 = \|G\|_2 \le \|G^{2^t}\|_F^{1/2^t}`. The rounding of G, at most (m + 8n) ε ‖W‖_F², is added. W is
    first scaled by a power of two, so that no square overflows or underflows.

    Args:
        weight: (\*, m, n), real or complex, float64 or complex128.

    Returns:
        An upper bound of the largest spectral norm, a float64 scalar; 0 for empty or zero matrices, inf above the
        largest float64.

    Raises:
        ValueError: the weight is not finite.

    Reference:
        Delattre, Barthélemy, Araujo, Allauzen 2023, "Efficient bound of Lipschitz constant for convolutional layers by
        Gram iteration", Theorem 1.
    """
    _check_finite(weight)
    if weight.numel() == 0:
        return torch.zeros((), dtype=torch.float64, device=weight.device)
    exponent = _exponent(weight)
    with torch.no_grad():
        scaled = _scaled(weight, -exponent)
        gram, slack = _gram(scaled)
        squares = (_largest_eigenvalue(gram) + slack).flatten()
        value = power_up(float(squares.max().clamp_min(0.0).sqrt()) * above(4), exponent)
    if not _differentiable(weight):
        return torch.tensor(value, dtype=torch.float64, device=weight.device)
    worst = _scaled(weight.reshape(-1, *weight.shape[-2:])[int(squares.argmax())], -exponent)
    return _with_gradient(value, _singular_value(worst), exponent)


def convolution_norm(
    weight: Tensor,
    size: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    circular: bool = False,
) -> Tensor:
    """Bound the spectral norm of a convolution without padding, on inputs of ``size``, from above.

    A convolution of a padded image gives some of the outputs of the circular convolution of that image, so its norm
    is at most the circular one's: the largest spectral norm among the (out × in) matrices Σ_t K_t exp(−i⟨ω, t⟩), ω
    over the frequencies of the torus. A stride turns into more input channels (space to depth), a dilation into
    a larger kernel, groups into a stack: all three exactly.

    Args:
        weight: (out, in / groups, *kernel), float64.
        size: of the padded image, per spatial dimension.
        stride, dilation: per spatial dimension.
        groups: as in the layer.
        circular: the image is periodic with period ``size``, and the stride is 1: the value is then exact.

    Returns:
        An upper bound of the spectral norm, a float64 scalar; inf above the largest float64.

    Raises:
        ValueError: the weight is not finite.

    Reference:
        Sedghi, Gupta, Long 2019, "The singular values of convolutional layers"; Delattre et al. 2023.
    """
    _check_finite(weight)
    kernel = weight.shape[2:]
    taps = torch.cartesian_prod(*(torch.arange(k) * d for k, d in zip(kernel, dilation, strict=True)))
    symbol = _Symbol(taps.reshape(-1, len(kernel)).to(weight.device), stride, groups)
    period = size if circular else tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    contenders = _Contenders()
    exponent = _exponent(weight)
    weight = _scaled(weight, -exponent)
    with torch.no_grad():
        chunk = _CHUNK // max(1, weight.shape[0] * weight.shape[1] * math.prod(stride))
        for frequencies in _half_torus(period, weight.device, chunk):
            gram, slack = _gram(symbol.blocks(weight, frequencies).flatten(0, 1))
            contenders.add(gram, slack, frequencies.repeat(groups, 1))
        largest, frequency = contenders.largest()
        # an angle of up to P turns is off by P ulps of the turn, and T taps are summed: a block is off by 2π P + T ulps
        # of Σ_t ‖K_t‖_F
        ulps = 32 + 8 * symbol.turns + 4 * len(taps)
        phase_error = ulps * EPS * float(weight.flatten(2).flatten(0, 1).norm(dim=0).sum())
        value = power_up(math.sqrt(largest) * above(4) + phase_error, exponent)
    if not _differentiable(weight):
        return torch.tensor(value, dtype=torch.float64, device=weight.device)
    smooth = matrix_norm(symbol.blocks(weight, frequency[None]).flatten(0, 1))
    return _with_gradient(value, smooth, exponent)


@dataclass(frozen=True)
class _Symbol:
    """A convolution as matrices at frequencies.

    Attributes:
        taps: where the kernel's entries sit, (taps, dimensions).
        stride, groups: as in the layer.
    """

    taps: Tensor
    stride: tuple[int, ...]
    groups: int

    @property
    def turns(self) -> int:
        """The most turns that an angle ⟨ω, t⟩ can have."""
        steps = self.taps // torch.tensor(self.stride, device=self.taps.device)
        return int(steps.sum(dim=1).max())

    def blocks(self, weight: Tensor, frequencies: Tensor) -> Tensor:
        """Return the matrices (groups, F, out / groups, in / groups · phases of the stride).

        Args:
            weight: (out, in / groups, *kernel).
            frequencies: in turns, (F, dimensions).
        """
        values = weight.reshape(self.groups, len(weight) // self.groups, weight.shape[1], -1)
        phases = torch.tensor(self.stride, device=weight.device)
        positions, offsets = self.taps // phases, self.taps % phases
        channel = offsets[:, 0]
        for axis in range(1, len(self.stride)):
            channel = channel * self.stride[axis] + offsets[:, axis]
        angles = frequencies @ positions.T.to(torch.float64)  # in turns, (F, taps)
        waves = torch.polar(torch.ones_like(angles), -2 * math.pi * angles)
        blocks = []
        for phase in range(math.prod(self.stride)):
            chosen = channel == phase
            blocks.append(torch.einsum("goit,ft->gfoi", values[..., chosen].to(torch.complex128), waves[:, chosen]))
        return torch.stack(blocks, dim=-1).flatten(-2)


def _check_finite(weight: Tensor) -> None:
    if not bool(torch.isfinite(weight.detach()).all()):
        raise ValueError("weight: expected finite numbers, got NaN or infinity")


def _differentiable(weight: Tensor) -> bool:
    return torch.is_grad_enabled() and weight.requires_grad


def _exponent(weight: Tensor) -> int:
    """Return k such that the largest entry in size is about 2**k; 0 for a weight of zeros."""
    weight = weight.detach()
    size = float((torch.view_as_real(weight) if weight.is_complex() else weight).abs().max()) if weight.numel() else 0.0
    return math.frexp(size)[1]


def _scaled(tensor: Tensor, exponent: int) -> Tensor:
    """Return the tensor times 2**exponent, in two steps, as 2**1074 is no float64."""
    if exponent == 0:
        return tensor
    half = exponent // 2
    return tensor * 2.0**half * 2.0 ** (exponent - half)


def _with_gradient(value: float, smooth: Tensor, exponent: int) -> Tensor:
    """Return ``value`` with the gradient of ``smooth`` · 2**exponent."""
    return value + _scaled(smooth - smooth.detach(), exponent)


def _singular_value(matrix: Tensor) -> Tensor:
    """Return ‖M v‖ with v fixed at the first right singular vector: the largest singular value, with its gradient."""
    tall = matrix if matrix.shape[-1] <= matrix.shape[-2] else matrix.mH
    with torch.no_grad():
        gram = tall.mH @ tall
        if len(gram) <= _EIGENVALUES:
            v = torch.linalg.eigh(gram)[1][:, -1]
        else:
            v = torch.ones(len(gram), dtype=gram.dtype, device=gram.device)
            for _ in range(_POWER_STEPS):
                v = torch.nn.functional.normalize(gram @ v, dim=0)
    norm: Tensor = torch.linalg.vector_norm(tall @ v)
    return norm


def _gram(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smaller of W Wᴴ and Wᴴ W, and what rounding and the eigenvalue solver may take off its norm."""
    rows, columns = weight.shape[-2:]
    gram = weight @ weight.mH if rows <= columns else weight.mH @ weight
    slack = (2 * max(rows, columns) + 16 * min(rows, columns)) * EPS * _squares(weight)
    return gram, slack


class _Contenders:
    """The Gram matrices that may have the largest norm: those whose upper bound is above every lower bound."""

    def __init__(self) -> None:
        self.lower = 0.0
        self.kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, gram: Tensor, slack: Tensor, frequencies: Tensor) -> None:
        """Add a stack of Gram matrices with their slack (see :func:`_gram`) and frequencies."""
        self.kept.append((gram, _iterate(gram, 2), slack, frequencies))
        self._drop(2)

    def largest(self) -> tuple[float, Tensor]:
        """Return an upper bound of the largest norm, and its frequency."""
        for times in (5, _ITERATIONS):
            if sum(len(gram) for gram, *_ in self.kept) > _SURVIVORS:
                self.kept = [(gram, _iterate(gram, times), slack, at) for gram, _, slack, at in self.kept]
                self._drop(times)
        exact = sum(len(gram) for gram, *_ in self.kept) <= _SURVIVORS
        tops = [(_largest_eigenvalue(gram) if exact else above) + slack for gram, above, slack, _ in self.kept]
        top = torch.cat(tops)
        worst = torch.cat([frequencies for *_, frequencies in self.kept])[int(top.argmax())]
        return max(0.0, float(top.max())), worst

    def _drop(self, times: int) -> None:
        """Drop what cannot have the largest norm, as ‖G^k‖_F / √n ≤ ‖G‖₂^k ≤ ‖G^k‖_F with k = 2^times."""
        top = max(float(above.max()) for _, above, *_ in self.kept)
        self.lower = max(
            self.lower, top * self.kept[0][0].shape[-1] ** (-0.5 / 2**times) * (1 - 1e-9)
        )  # more than its rounding
        near = [above + slack >= self.lower for _, above, slack, _ in self.kept]
        self.kept = [
            (gram[mask], above[mask], slack[mask], frequencies[mask])
            for (gram, above, slack, frequencies), mask in zip(self.kept, near, strict=True)
            if bool(mask.any())
        ]


def _iterate(gram: Tensor, times: int) -> Tensor:
    """Return ‖G^(2^times)‖_F^(1 / 2^times), rounded upwards; G is divided by its norm before each squaring."""
    exponent = 1.0
    log = torch.zeros(gram.shape[:-2], dtype=torch.float64, device=gram.device)
    for step in range(times + 1):
        norm = _squares(gram).sqrt()
        log = log + exponent * torch.log(norm)
        if step < times:
            gram = gram / torch.where(norm > 0, norm, 1)[..., None, None]
            gram = gram @ gram
            exponent /= 2
    rounding = 8 * (times + 1) * gram.shape[-1] * EPS
    return torch.exp(log) * (1 + rounding)


def _squares(matrix: Tensor) -> Tensor:
    """Return ‖M‖_F²; torch's own norms of complex matrices are slow."""
    return (
        (torch.view_as_real(matrix) if matrix.is_complex() else matrix).square().flatten(matrix.dim() - 2).sum(dim=-1)
    )


def _largest_eigenvalue(gram: Tensor) -> Tensor:
    if gram.shape[-1] <= _EIGENVALUES:
        eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
        return eigenvalues[..., -1]
    return _iterate(gram, _ITERATIONS)


def _half_torus(period: tuple[int, ...], device: torch.device, chunk: int) -> list[Tensor]:
    """Return the frequencies of a real kernel up to conjugation, in turns, as chunks (F, dimensions)."""
    axes = [torch.arange(n, dtype=torch.float64, device=device) / n for n in (*period[:-1],)]
    last = torch.arange(period[-1] // 2 + 1, dtype=torch.float64, device=device) / period[-1]
    return list(torch.cartesian_prod(*axes, last).reshape(-1, len(period)).split(max(1, chunk)))  # type: ignore[no-untyped-call]
