"""The Lipschitz constant of a smooth function of one variable: its largest slope, found on a grid and refined."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Steepest", "slopes", "steepest"]

_FINALISTS = 16
_REFINEMENTS = 40  # of the golden section: the bracket shrinks by 0.618 each time
_GOLDEN = (5**0.5 - 1) / 2


class Steepest(NamedTuple):
    """The largest |f'(x)|, in float64, and where it is."""

    value: float
    at: float


def steepest(model: nn.Module, low: float, high: float, *, points: int = 20_001) -> Steepest:
    """The largest slope of a network with one input and one output on [low, high].

    The sup of the difference quotients of a differentiable f on an interval is max |f'|. The grid's best points are
    refined by golden section between their neighbours; exact as long as |f'| has no peak narrower than the grid.

    Args:
        model: from (B, 1) to (B, 1), differentiable.
        low, high: the interval.
        points: of the grid.

    Example:
        >>> sine = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
        >>> _ = nn.init.ones_(sine[0].weight), nn.init.constant_(sine[0].bias, 0.3)
        >>> round(steepest(sine, -1.0, 1.0).at, 6)
        -0.3
    """
    exact = copy.deepcopy(model).double().eval()
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    values = slopes(exact, grid).abs()
    middle = values.topk(min(_FINALISTS, points)).indices
    left, right = grid[(middle - 1).clamp_min(0)], grid[(middle + 1).clamp_max(points - 1)]
    for _ in range(_REFINEMENTS):
        one, other = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        rising = slopes(exact, one).abs() < slopes(exact, other).abs()
        left, right = torch.where(rising, one, left), torch.where(rising, right, other)
    candidates = torch.cat([grid, left, (left + right) / 2, right])
    values = torch.cat([values, slopes(exact, candidates[points:]).abs()])
    best = int(values.argmax())
    return Steepest(float(values[best]), float(candidates[best]))


def slopes(model: nn.Module, x: Tensor) -> Tensor:
    """f'(x) at each of ``x`` (B,), for a model from (B, 1) to (B, 1); the model's gradients stay as they were."""
    with torch.enable_grad():
        z = x.detach()[:, None].requires_grad_()
        (gradient,) = torch.autograd.grad(model(z).sum(), z)
    return gradient[:, 0]
