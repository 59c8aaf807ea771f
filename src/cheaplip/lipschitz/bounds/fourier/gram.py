r"""Joint matrices of the increments of some values, one for each frequency.

P stands for Δᵀ P⁻¹ Δ ≤ ‖Δx‖², for increments Δ of the values and Δx of the input. A linear map A takes P to A P Aᵀ. An
activation h = φ(z) whose secant slopes lie in [c − r, c + r] is h = cz + rv with |v| ≤ |z| entrywise. For every
diagonal S with S − P_zz positive definite, u the values and v lie in

.. math:: \operatorname{diag}(P + P_{\cdot z} (S - P_{zz})^{-1} P_{z\cdot},\; S),

which is linear in (u, v), and so gives the matrix of all that lives on. For c = r = 1/2 it is ¼ S (S − P)⁻¹ S for h.
A slope may also be 0 wherever an image is padded with zeros, so that h may be any of the slopes times a mask.

**Rounding.** As in :mod:`cheaplip.lipschitz.bounds.layer`: all errors are at most γ a_i a_j in entry (i, j), with a² a
diagonal at hand, so that κ a² is added to the diagonal. With complex numbers, a product has four times the rounding of
a real one at most. The largest eigenvalues are accepted only if λ(1−κ) − P has a Cholesky factor.

Reference:
    Fazlyab et al. 2019, Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural Networks; Pauli et al.
    2024, Lipschitz constant estimation for general neural network architectures using control tools.
"""

import math
from typing import Any

import torch
from torch import Tensor

from cheaplip.lipschitz.rounding import EPS, UNDERFLOW, above

__all__ = [
    "Rows",
    "activated",
    "bounded_by",
    "count_of",
    "largest_eigenvalue",
    "mapped",
    "pair_bounds",
    "raised",
    "scaled",
    "spread",
]

Rows = slice | Tensor
"""Rows of a joint matrix: a slice, or their indices."""

_FEW = 4  # entries of a group's matrix, up to which entries are multiplied one by one
_TERMS = 64  # ulps of a wave's angle, and of the sum of a kernel's entries, beside the number of entries


def spread(gram: Tensor) -> Tensor:
    """Return the square roots of the diagonals, (F, n), without a gradient."""
    return torch.diagonal(gram.detach(), dim1=1, dim2=2).real.clamp_min(0.0).sqrt()


def raised(gram: Tensor, slack: Tensor, terms: int) -> Tensor:
    """Raise a matrix in place, so that it is certainly above one computed with errors of at most γ a_i a_j.

    Two entries that should be conjugates may differ by as much; either is taken for the other.

    Args:
        gram: (F, n, n), as computed; γ is that of so many terms.
        slack: a², (F, n); it has no part in the gradient.
        terms: most products that an entry is the sum of.
    """
    kappa = _kappa(gram.shape[-1], terms)
    torch.diagonal(gram.detach(), dim1=1, dim2=2).add_(kappa * slack.detach() + UNDERFLOW)
    return gram


def _kappa(rows: int, terms: int) -> float:
    """Return a bound of n γ for n rows: a aᵀ is at most n times the diagonal matrix of a²."""
    return 16 * EPS * (rows + 8) * (terms + 8)


def mapped(gram: Tensor, matrix: Tensor, sizes: Tensor, rows: slice, kept: Rows, terms: int = 1) -> Tensor:
    """Return the joint matrix of some of the values and of the image of one under a linear map.

    Args:
        gram: P, (F, n, n), or (1, n, n) where it is the same at every frequency.
        matrix: the map of the rows ``rows``, in groups: (F or 1, groups, m / groups, k / groups).
        sizes: bounds of its entries, of the same shape.
        rows: of the value that is mapped.
        kept: rows of the values that live on.
        terms: numbers that each entry of the matrix is the sum of.

    Returns:
        (F, len(kept) + m, …).
    """
    both = torch.promote_types(gram.dtype, matrix.dtype)
    gram, matrix = gram.to(both), matrix.to(both)
    source = gram[:, rows]
    pushed = _applied(matrix, source)
    image = _applied(matrix, pushed[:, :, rows].mH).mH.resolve_conj()
    roots = spread(gram)
    reach = _applied(sizes.detach().to(roots), roots[:, rows].unsqueeze(2)).squeeze(2)
    slack = reach.square()
    if count_of(kept):
        beside = gram[:, kept][:, :, kept].expand(len(image), -1, -1)
        cross = pushed[:, :, kept]
        image = _blocks(beside, cross, image)
        slack = torch.cat([roots[:, kept].square().expand(len(image), -1), slack.expand(len(image), -1)], dim=1)
    return raised(image, slack, 2 * matrix.shape[3] + terms + _TERMS)


def _applied(matrix: Tensor, columns: Tensor) -> Tensor:
    """Multiply columns (F, k, n) by a matrix in groups, (F, groups, m / groups, k / groups)."""
    groups, out, inner = matrix.shape[1:]
    parts = columns.reshape(len(columns), groups, inner, -1)
    if out * inner > _FEW:
        return (matrix @ parts).flatten(1, 2)
    return (matrix.unsqueeze(4) * parts.unsqueeze(2)).sum(dim=3).flatten(1, 2)


def count_of(rows: Rows) -> int:
    """Return how many rows there are."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _blocks(first: Tensor, cross: Tensor, second: Tensor) -> Tensor:
    """Return [[first, crossᴴ], [cross, second]] for each frequency."""
    top, bottom = torch.cat([first, cross.mH], dim=2), torch.cat([cross, second], dim=2)
    return torch.cat([top, bottom], dim=1)


def scaled(gram: Tensor, factors: Tensor) -> Tensor:
    """Return the joint matrix of the values times ``factors``, (n,)."""
    gram = gram * (factors.unsqueeze(1) * factors)
    return raised(gram, spread(gram).square(), 4)


def activated(gram: Tensor, rows: slice, kept: Rows, center: Tensor, radius: Tensor, s: Tensor) -> Tensor | None:
    """Return the joint matrix of some of the values and of the activation of one.

    Args:
        gram: P, (F, n, n).
        rows: of the value z that is activated, k of them.
        kept: rows of the values that live on; z itself may be among them.
        center, radius: c and r, (k,).
        s: the multipliers, (k,).

    Returns:
        (F, len(kept) + k, …); None if S − P_zz is not certainly positive definite.
    """
    source = gram[:, rows]
    before = count_of(kept)
    joint = gram[:, rows, rows]
    if before:
        joint = _blocks(gram[:, kept][:, :, kept], source[:, :, kept], joint)
    loose = radius > 0
    if bool(loose.any()):
        every = bool(loose.all())
        at = slice(None) if every else loose.nonzero().flatten()
        count = len(s[at])
        bent = source[:, at, rows] if every else source[:, at][:, :, rows][:, :, at]
        pivot = torch.diag((1 - _kappa(count, count)) * s[at]) - bent
        beside = torch.cat([source[:, :, kept], source[:, :, rows]], dim=2) if before else source[:, :, rows]
        added, failed = _Elimination.apply(pivot, beside[:, at])  # type: ignore[no-untyped-call]
        if bool(failed.any()):
            return None
        joint = joint + added
    factors = torch.cat([torch.ones(before, dtype=torch.float64, device=gram.device), center])
    joint = joint * (factors.unsqueeze(1) * factors)
    joint = joint + torch.diag(torch.cat([factors.new_zeros(before), radius.square() * s]))
    return raised(joint, spread(joint).square(), joint.shape[-1])


def pair_bounds(gram: Tensor) -> Tensor:
    """Bound Lip(f_i − f_j) for all pairs of outputs, (B, n, n), from their joint matrices, (B, n, n) float64."""
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    sums = diagonal.unsqueeze(1) + diagonal.unsqueeze(2)
    return (sums - 2 * gram + 8 * EPS * sums + UNDERFLOW).clamp_min(UNDERFLOW).sqrt() * above(4)


class _Elimination(torch.autograd.Function):
    """BᴴN⁻¹B for positive definite N, (F, k, k), and B, (F, k, n), and where N has no Cholesky factor, (F,)."""

    @staticmethod
    def forward(ctx: Any, pivot: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        factor, failed = torch.linalg.cholesky_ex(pivot)
        solved = torch.linalg.solve_triangular(factor, beside, upper=False)
        ctx.save_for_backward(factor, solved)
        ctx.mark_non_differentiable(failed)
        return solved.mH @ solved, failed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        factor, solved = ctx.saved_tensors
        inverse = torch.linalg.solve_triangular(factor.mH, solved, upper=True)
        pushed = inverse @ (gradient + gradient.mH) / 2
        return -pushed @ inverse.mH, 2 * pushed


def bounded_by(gram: Tensor, shape: Tensor) -> Tensor:
    """Return the smallest multiple of a diagonal matrix that is certainly above P at every frequency.

    Args:
        gram: P, (F, n, n).
        shape: the diagonal, (n,), positive.

    Returns:
        (n,); infinite where nothing could be proved.
    """
    root = shape.rsqrt()
    balanced = gram * (root.unsqueeze(1) * root)
    return shape * largest_eigenvalue(raised(balanced, spread(balanced).square(), 4))


def largest_eigenvalue(gram: Tensor) -> Tensor:
    """Bound the largest eigenvalue at all frequencies from above, differentiably; inf if nothing is proved."""
    if not bool(torch.isfinite(torch.view_as_real(gram) if gram.is_complex() else gram).all()):
        return torch.full((), math.inf, dtype=torch.float64, device=gram.device)
    kappa = _kappa(gram.shape[-1], gram.shape[-1])
    tops = torch.linalg.eigvalsh(gram)[:, -1]
    top = tops.max().clamp_min(0.0)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    for inflation in (1e-12, 1e-10, 1e-8, 1e-6, 1e-3):
        bound: Tensor = top * (1 + inflation + 2 * kappa) + UNDERFLOW
        with torch.no_grad():
            failed = torch.linalg.cholesky_ex(bound * (1 - kappa) * eye - gram)[1]
        if not bool(failed.any()):
            return bound
    return torch.full((), math.inf, dtype=torch.float64, device=gram.device)
