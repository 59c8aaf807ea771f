r"""The best multipliers by an interior-point method, for networks of up to about a thousand neurons.

With hidden increments h = cz + rv, everything is linear in x and the v of all neurons together: z = ζ (x, v) for rows
ζ, and the output's increment is Y (x, v). The best multipliers of LipSDP-Neuron solve

.. math:: \min λ \quad\text{such that}\quad F(λ, s) = λE_0 + \sum_i s_i (e_i e_i^⊤ - ζ_i ζ_i^⊤) - Y^⊤Y ≽ 0.

Its matrices have rank 2, so gradient and Hessian of −log det F are entries of F⁻¹, F⁻¹Zᵀ and ZF⁻¹Zᵀ and of their
squares: a Newton step costs a few products of matrices of F's size, while a solver for general semidefinite programs
needs matrices of the square of that size. Nothing here has to be exact: the bound is computed from the multipliers
afterwards, by elimination.

Reference:
    Fazlyab et al. 2019; Boyd and Vandenberghe 2004, section 11.3; Benson, Ye and Zhang 2000 (low-rank data matrices).
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.elimination import Elimination
from cheaplip.lipschitz.bounds.layer import top_eigenvalue

__all__ = ["follow_path", "size"]

_CENTERED = 1.0  # Newton decrement, squared, below which the barrier weight shrinks
_ITERATIONS = 300


def size(problem: Elimination) -> int:
    """Return the dimension of F."""
    return problem.layers[-1].weight.shape[1] + sum(int((layer.radius > 0).sum()) for layer in problem.layers)


def follow_path(problem: Elimination, start: Sequence[Tensor], *, accuracy: float, deadline: float) -> list[Tensor]:
    """Follow the central path to multipliers whose bound is within ``accuracy`` of the optimum, relatively.

    Args:
        problem: the network.
        start: feasible multipliers, in the order of elimination.
        accuracy: of the bound of Lip.
        deadline: on the clock of ``time.monotonic()``; the best multipliers by then are returned.

    Returns:
        Multipliers in the order of elimination; ``start`` if no better ones are found.
    """
    eliminated = problem.run(start)
    if len(eliminated) < len(problem.layers):
        return list(start)
    loose = [layer.radius.nonzero().flatten() for layer in problem.layers]
    scales = [2 * layer.radius[at].square() for layer, at in zip(problem.layers, loose, strict=True)]
    s = torch.cat([scale * t[at] for scale, t, at in zip(scales, start, loose, strict=True)][::-1])
    lam = top_eigenvalue(eliminated[-1].gram)
    if not (len(s) and 0 < lam < math.inf):
        return list(start)
    z, y = _responses(problem, loose)
    s = _minimise(z, y / math.sqrt(lam), 1.1 * s / lam, 1.2, 2 * accuracy, deadline) * lam
    multipliers = [t.clone() for t in start]
    parts = torch.split(s, [len(at) for at in loose[::-1]])[::-1]
    for t, at, scale, part in zip(multipliers, loose, scales, parts, strict=True):
        t[at] = part / scale
    return multipliers


def _responses(problem: Elimination, loose: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return Z, whose rows are the ζ of the neurons with r > 0, and Y, with columns (x, v)."""
    at = problem.layers[-1].weight.shape[1]
    state = problem.first.new_zeros(at, at + sum(len(some) for some in loose))
    state.diagonal().fill_(1)
    rows: list[Tensor] = []
    for layer, some in zip(reversed(problem.layers), reversed(loose), strict=True):
        z = layer.weight @ state
        rows.append(z[some])
        state = layer.center.unsqueeze(1) * z
        state[some, torch.arange(at, at + len(some))] += layer.radius[some]
        at += len(some)
    return torch.cat(rows), problem.first @ state


def _minimise(z: Tensor, y: Tensor, s: Tensor, lam: float, gap: float, deadline: float) -> Tensor:
    """Minimise λ over (λ, s) with F ≽ 0 by Newton's method on a log-det barrier; return s."""
    n = z.shape[1]
    n_in = n - len(s)
    outer = y.mT @ y

    def matrix(s: Tensor, lam: float) -> Tensor:
        f = -((z.mT * s) @ z)
        f.diagonal()[:n_in] += lam
        f.diagonal()[n_in:] += s
        return f

    factor, failed = torch.linalg.cholesky_ex(matrix(s, lam) - outer)
    if failed:
        return s
    weight, centering = lam / n, 0
    for _ in range(_ITERATIONS):
        if time.monotonic() > deadline:
            break
        move, decrement = _newton(z, torch.cholesky_inverse(factor), s, lam, weight)
        if not math.isfinite(decrement):
            break
        if decrement < _CENTERED:
            if n * weight < gap * lam:
                break
            weight *= 0.5 if centering > 3 else 0.2
            centering = 0
            continue
        centering += 1
        ds, dlam = s * move[:-1], lam * float(move[-1])
        change = torch.linalg.solve_triangular(factor, matrix(ds, dlam), upper=False)
        change = torch.linalg.solve_triangular(factor, change.mT, upper=False)
        if not bool(torch.isfinite(change).all()):  # F is all but singular
            break
        length = _line_search(torch.linalg.eigvalsh((change + change.mT) / 2), dlam / weight)
        new_factor, failed = torch.linalg.cholesky_ex(matrix(s + length * ds, lam + length * dlam) - outer)
        if failed:
            break
        s, lam, factor = s + length * ds, lam + length * dlam, new_factor
    return s


def _newton(z: Tensor, inverse: Tensor, s: Tensor, lam: float, weight: float) -> tuple[Tensor, float]:
    """Return Newton's step for λ/weight − log det F, in units of (s, λ), and the decrement squared."""
    n_in = len(inverse) - len(s)
    mixed = inverse @ z.mT
    both = z @ mixed
    lower = mixed[n_in:]
    gradient = s.new_empty(len(s) + 1)
    gradient[:-1] = (both.diagonal() - inverse.diagonal()[n_in:]) * s
    gradient[-1] = lam / weight - lam * inverse.diagonal()[:n_in].sum()
    hessian = s.new_empty(len(s) + 1, len(s) + 1)
    curvature = inverse[n_in:, n_in:].square() - lower.square() - lower.mT.square() + both.square()
    hessian[:-1, :-1] = s.unsqueeze(1) * curvature * s
    cross = inverse[:n_in, n_in:].square().sum(dim=0) - mixed[:n_in].square().sum(dim=0)
    hessian[:-1, -1] = hessian[-1, :-1] = lam * s * cross
    hessian[-1, -1] = lam**2 * inverse[:n_in, :n_in].square().sum()
    hessian.diagonal().add_(1e-12 * hessian.diagonal().max())
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        return gradient, math.nan
    move = -torch.cholesky_solve(gradient.unsqueeze(1), factor).squeeze(1)
    return move, -float(gradient @ move)


def _line_search(eigenvalues: Tensor, slope: float) -> float:
    """Find the a > 0 that minimises a·slope − Σ log(1 + aσ) over the eigenvalues σ, to 1 %."""
    lowest = float(eigenvalues[0])
    end = 0.99 / -lowest if lowest < 0 else 1e3
    length = min(1.0, end / 2)
    for _ in range(30):
        terms = eigenvalues / (1 + length * eigenvalues)
        target = length - (slope - float(terms.sum())) / float(terms.square().sum())
        target = min(max(target, length / 4), 4 * length, (length + 3 * end) / 4)
        if abs(target - length) < 0.01 * length:
            return target
        length = target
    return length
