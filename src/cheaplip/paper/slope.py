"""The exact Lipschitz constant of a smooth function of one variable: its largest slope."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Slope", "largest_slope", "slopes"]

_REFINED = 16  # points of the grid, those with the largest slopes, around which the search is refined
_REFINEMENTS = 40  # steps of the golden section; each shrinks the interval to 0.618 of its length
_GOLDEN = (5**0.5 - 1) / 2


class Slope(NamedTuple):
    """The largest |f'(x)|, computed in float64, and the x where it is."""

    value: float
    at: float


def largest_slope(model: nn.Module, low: float, high: float, *, points: int = 20_001) -> Slope:
    """Find the largest slope of a network with one input and one output on [low, high].

    The largest difference quotient of a differentiable f on an interval is max |f'|. The search starts on a grid and
    refines its best points by golden section between their neighbours. It is exact as long as |f'| has no peak narrower
    than the spacing of the grid.

    Args:
        model: from (B, 1) to (B, 1), differentiable.
        low, high: the interval.
        points: number of points of the grid.

    Example:
        >>> sine = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
        >>> _ = nn.init.ones_(sine[0].weight), nn.init.constant_(sine[0].bias, 0.3)
        >>> round(largest_slope(sine, -1.0, 1.0).at, 6)
        -0.3
    """
    exact = copy.deepcopy(model).double().eval()
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    values = slopes(exact, grid).abs()
    middle = values.topk(min(_REFINED, points)).indices
    left, right = grid[(middle - 1).clamp_min(0)], grid[(middle + 1).clamp_max(points - 1)]
    for _ in range(_REFINEMENTS):
        one, other = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        rising = slopes(exact, one).abs() < slopes(exact, other).abs()
        left, right = torch.where(rising, one, left), torch.where(rising, right, other)
    candidates = torch.cat([grid, left, (left + right) / 2, right])
    values = torch.cat([values, slopes(exact, candidates[points:]).abs()])
    best = int(values.argmax())
    return Slope(float(values[best]), float(candidates[best]))


def slopes(model: nn.Module, x: Tensor) -> Tensor:
    """Compute f'(x) at each of ``x`` (B,), for a model from (B, 1) to (B, 1); its gradients stay as they were."""
    with torch.enable_grad():
        z = x.detach()[:, None].requires_grad_()
        (gradient,) = torch.autograd.grad(model(z).sum(), z)
    return gradient[:, 0]
