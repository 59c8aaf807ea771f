"""The multipliers of an activation, relative to the smallest feasible ones, and those of the closed form.

A choice has the logs of a shape D, (k,), and of a number x, behind them. The multipliers are (1 + x) times the smallest
multiple of D that is above the increments' joint matrix, so that nearly all choices are feasible.
"""

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.eigenvectors import largest_ratio

__all__ = ["InfeasibleError", "first_choice", "multipliers", "shape_of"]

_ROOM = 1e-6  # for rounding: the least by which multipliers are above the smallest ones, relatively


class InfeasibleError(Exception):
    """Some multipliers are too small, or numbers too large."""


def multipliers(choice: Tensor, gram: Tensor, radius: Tensor) -> Tensor:
    """Return the multipliers that a choice stands for, (k,).

    Args:
        choice: (k + 1,).
        gram: the joint matrix of what is activated, (F, k, k).
        radius: half the width of the range of slopes, (k,); entries with 0 have no multiplier that matters.

    Raises:
        InfeasibleError: numbers overflow.
    """
    shape, beyond = choice[:-1].exp(), choice[-1].exp()
    s = shape * largest_ratio(gram, shape, radius > 0).clamp_min(1e-200) * (1 + _ROOM + beyond)
    if not bool(torch.isfinite(s).all()):
        raise InfeasibleError
    return s


def first_choice(gram: Tensor, center: Tensor, radius: Tensor, power: float, least: float, *, alone: bool) -> Tensor:
    """Return the choice of the closed form: a power of the diagonal, times 1 + |c|/r, (k + 1,).

    Args:
        gram, radius: as in :func:`multipliers`.
        center: the middle of the range of slopes, (k,).
        power: of the diagonal.
        least: of |c|/r, and of x.
        alone: whether no other value lives on. If slopes are also as far below 0 as above, the smallest are the best.
    """
    bent = radius > 0
    if alone and bool(bent.all()) and not bool(center.any()):
        least = _ROOM
    skew = torch.where(bent, center.abs() / radius.clamp_min(1e-300), 1.0).clamp(least, 1e6)
    plain = shape_of(gram, power)
    shape = plain * (1 + skew)
    smallest, size = (largest_ratio(gram, of, bent).clamp_min(1e-200) for of in (plain, shape))
    return torch.cat([shape.log(), (smallest / size - 1).clamp_min(least).log().unsqueeze(0)])


def shape_of(gram: Tensor, power: float) -> Tensor:
    """Return a power of the mean diagonal over the frequencies, which a closed form is proportional to, (k,)."""
    diagonal = torch.diagonal(gram, dim1=1, dim2=2).real.mean(dim=0)
    return (diagonal + 1e-6 * diagonal.mean() + 1e-290) ** power
