"""Spectral norms bounded from above: never an estimate, never a truncated power iteration."""

import math

import torch
from torch import Tensor

__all__ = ["convolution_norm", "matrix_norm"]

_EPS = torch.finfo(torch.float64).eps
_EIGENVALUES = 1500  # largest side whose eigenvalues are computed; beyond it, Gram iterations
_ITERATIONS = 7
_CHUNK = 1 << 22  # entries of the matrices held at once
_SURVIVORS = 64  # frequencies worth their eigenvalues


def matrix_norm(weight: Tensor) -> float:
    r"""Largest singular value of each matrix in a stack, and of those the largest, rounded upwards.

    Computed from the smaller Gram matrix G: from its eigenvalues, or for large ones
    :math:`\sigma^2 = \|G\|_2 \le \|G^{2^t}\|_F^{1/2^t}`. The rounding of G, at most (m + 8n) ε ‖W‖_F², is added.

    Args:
        weight: (\*, m, n), real or complex, float64 or complex128.

    Returns:
        An upper bound of the largest spectral norm; 0 for empty or zero matrices.

    Reference:
        Delattre, Barthélemy, Araujo, Allauzen 2023, "Efficient bound of Lipschitz constant for convolutional layers by
        Gram iteration", Theorem 1.
    """
    if weight.numel() == 0:
        return 0.0
    gram, slack = _gram(weight)
    squares = _largest_eigenvalue(gram) + slack
    return math.sqrt(max(0.0, float(squares.max()))) * (1 + 4 * _EPS)


def convolution_norm(
    weight: Tensor,
    size: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    circular: bool = False,
) -> float:
    """Spectral norm of a convolution without padding on inputs of ``size``, from above.

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
        An upper bound of the spectral norm.

    Reference:
        Sedghi, Gupta, Long 2019, "The singular values of convolutional layers"; Delattre et al. 2023.
    """
    out, inner, *kernel = weight.shape
    taps = torch.cartesian_prod(*(torch.arange(k) * d for k, d in zip(kernel, dilation, strict=True)))
    taps = taps.reshape(-1, len(kernel)).to(weight.device)
    values = weight.reshape(groups, out // groups, inner, -1)
    phases = torch.tensor(stride, device=weight.device)
    positions, offsets = taps // phases, taps % phases
    channel = offsets[:, 0]
    for axis in range(1, len(kernel)):
        channel = channel * stride[axis] + offsets[:, axis]
    count = math.prod(stride)
    period = size if circular else tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    contenders = _Contenders()
    for frequencies in _half_torus(period, weight.device, _CHUNK // max(1, out * inner * count)):
        angles = frequencies @ positions.T.to(torch.float64)  # in turns, (F, taps)
        waves = torch.polar(torch.ones_like(angles), -2 * math.pi * angles)
        blocks = torch.zeros(
            groups, len(frequencies), out // groups, inner, count, dtype=torch.complex128, device=weight.device
        )
        for phase in sorted(set(channel.tolist())):
            chosen = channel == phase
            terms = values[..., chosen].to(torch.complex128), waves[:, chosen]
            blocks[..., phase] = torch.einsum("goit,ft->gfoi", *terms)
        contenders.add(*_gram(blocks.flatten(-2).flatten(0, 1)))
    # an angle is off by a few ulps of the turn, so a block by that times Σ_t ‖K_t‖_F
    phase_error = 32 * _EPS * float(values.flatten(0, 2).norm(dim=0).sum())
    return math.sqrt(contenders.largest()) * (1 + 4 * _EPS) + phase_error


def _gram(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller of W Wᴴ and Wᴴ W, and what rounding and the eigenvalue solver may have taken off its norm."""
    rows, columns = weight.shape[-2:]
    gram = weight @ weight.mH if rows <= columns else weight.mH @ weight
    slack = (2 * max(rows, columns) + 16 * min(rows, columns)) * _EPS * weight.abs().square().sum(dim=(-2, -1))
    return gram, slack


class _Contenders:
    """The Gram matrices of a stack that may have the largest norm: those whose upper bound is above every lower one."""

    def __init__(self) -> None:
        self.lower = 0.0
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, gram: Tensor, slack: Tensor) -> None:
        self.kept.append((gram, _iterate(gram, 2), slack))
        self._drop(2)

    def largest(self) -> float:
        """The largest norm of them all, from above."""
        for times in (5, _ITERATIONS):
            if sum(len(gram) for gram, _, _ in self.kept) > _SURVIVORS:
                self.kept = [(gram, _iterate(gram, times), slack) for gram, _, slack in self.kept]
                self._drop(times)
        exact = sum(len(gram) for gram, _, _ in self.kept) <= _SURVIVORS
        tops = [(_largest_eigenvalue(gram) if exact else above) + slack for gram, above, slack in self.kept]
        return max([0.0, *(float(top.max()) for top in tops)])

    def _drop(self, times: int) -> None:
        """‖G^k‖_F / √n ≤ ‖G‖₂^k ≤ ‖G^k‖_F with k = 2^times."""
        top = max(float(above.max()) for _, above, _ in self.kept)
        self.lower = max(self.lower, top * self.kept[0][0].shape[-1] ** (-0.5 / 2**times) * (1 - 1e-9))
        near = [above + slack >= self.lower for _, above, slack in self.kept]
        self.kept = [
            (gram[mask], above[mask], slack[mask])
            for (gram, above, slack), mask in zip(self.kept, near, strict=True)
            if bool(mask.any())
        ]


def _iterate(gram: Tensor, times: int) -> Tensor:
    """‖G^(2^times)‖_F^(1 / 2^times), with G divided by its norm before each squaring."""
    exponent = 1.0
    log = torch.zeros(gram.shape[:-2], dtype=torch.float64, device=gram.device)
    for step in range(times + 1):
        norm = torch.linalg.matrix_norm(gram).real
        log = log + exponent * torch.log(norm)
        if step < times:
            gram = gram / torch.where(norm > 0, norm, 1)[..., None, None]
            gram = gram @ gram
            exponent /= 2
    rounding = 8 * (times + 1) * gram.shape[-1] * _EPS
    return torch.exp(log) * (1 + rounding)


def _largest_eigenvalue(gram: Tensor) -> Tensor:
    if gram.shape[-1] <= _EIGENVALUES:
        eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
        return eigenvalues[..., -1]
    return _iterate(gram, _ITERATIONS)


def _half_torus(period: tuple[int, ...], device: torch.device, chunk: int) -> list[Tensor]:
    """Frequencies in turns, (F, dimensions): those of a real kernel up to conjugation, in chunks."""
    axes = [torch.arange(n, dtype=torch.float64, device=device) / n for n in (*period[:-1],)]
    last = torch.arange(period[-1] // 2 + 1, dtype=torch.float64, device=device) / period[-1]
    return list(torch.cartesian_prod(*axes, last).reshape(-1, len(period)).split(max(1, chunk)))  # type: ignore[no-untyped-call]
