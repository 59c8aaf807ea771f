"""How pairs climb: three ways to move the two ends u, v of each pair so that its quotient grows.

``pull_u`` and ``pull_v`` are the gradients of a pair's quotient L with respect to its ends, the distance ‖u−v‖ held
constant. For an affine model with Jacobian J both are ±Jᵀ(f(u)−f(v)), up to a factor.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from cheaplip.quotient import TINY, Norm, column, distance, slope

__all__ = ["STEP_SIZES", "Climb", "gradient_step", "power_step", "quotient_step", "within_distances"]

Climb = Literal["power", "gradient", "quotient"]
"""How pairs climb; :class:`PairSet` explains each."""

STEP_SIZES: dict[Climb, float] = {"power": 0.025, "gradient": 0.02, "quotient": 1.0}
"""Step sizes that suit most models. All but the last are in units of the data's scale."""

_FAINT = 1e-12  # share of the old direction in a new one: below the rounding of any slope that is not 0


def power_step(
    u: Tensor, v: Tensor, pull_u: Tensor, pull_v: Tensor, *, step_size: float, scale: Tensor, norm_in: Norm
) -> tuple[Tensor, Tensor]:
    """Turn each pair into its steepest direction, and move its midpoint uphill; the pair keeps its length.

    Args:
        u, v, pull_u, pull_v: (n, *input).
        step_size: of the midpoint, in units of ``scale``.
        scale: of the data, a scalar.
        norm_in: the norm in the quotient's denominator.

    Returns:
        The new ends.
    """
    difference = u - v
    length = distance(difference, keepdim=True)
    direction = _dual(pull_u - pull_v, norm_in)
    if norm_in == 2:  # where the model is flat, what is left is the old direction
        direction = torch.addcdiv(direction, difference, length.clamp_min(TINY), value=_FAINT)
    else:
        direction = torch.where(distance(direction, keepdim=True) == 0, difference, direction)
    half = direction * (length / distance(direction, keepdim=True).clamp_min(TINY) / 2)
    uphill = pull_u + pull_v
    per_length = scale / distance(uphill, keepdim=True).clamp_min(TINY)
    middle = torch.addcmul(u - difference / 2, uphill, per_length, value=step_size)
    return middle + half, middle - half


def gradient_step(
    u: Tensor,
    v: Tensor,
    pull_u: Tensor,
    pull_v: Tensor,
    quotients: Tensor,
    *,
    step_size: float,
    scale: Tensor,
    norm_in: Norm,
) -> tuple[Tensor, Tensor]:
    """Move each end along the gradient of its pair's quotient (n,), as far as ``step_size`` · ``scale``."""
    gradient_u, gradient_v = _gradients(u, v, pull_u, pull_v, quotients, norm_in)
    return u + step_size * scale * slope(gradient_u), v + step_size * scale * slope(gradient_v)


def quotient_step(
    u: Tensor, v: Tensor, pull_u: Tensor, pull_v: Tensor, quotients: Tensor, *, step_size: float, norm_in: Norm
) -> tuple[Tensor, Tensor]:
    """Move each end by τ·L times the gradient of its pair's quotient L, the paper's Algorithm 1."""
    gradient_u, gradient_v = _gradients(u, v, pull_u, pull_v, quotients, norm_in)
    factor = step_size * column(quotients, u)
    return u + factor * gradient_u, v + factor * gradient_v


def within_distances(u: Tensor, v: Tensor, shortest: float, longest: float, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch or shrink each pair about its midpoint to a length within bounds, in units of ``scale``."""
    difference = u - v
    length = (distance(difference, keepdim=True) / scale).clamp_min(TINY)
    excess = length.clamp(shortest, longest) / length - 1
    shift = difference * (excess / 2)
    return u + shift, v - shift


def _gradients(
    u: Tensor, v: Tensor, pull_u: Tensor, pull_v: Tensor, quotients: Tensor, norm_in: Norm
) -> tuple[Tensor, Tensor]:
    """Gradients of the quotients with respect to both ends: the pulls, and what a change of ‖u−v‖ adds to them."""
    difference = u - v
    length = distance(difference, norm_in, keepdim=True).clamp_min(TINY)
    shrink = column(quotients, difference) * slope(difference, norm_in) / length
    return pull_u - shrink, pull_v + shrink


def _dual(pull: Tensor, norm: Norm) -> Tensor:
    """The direction e, of any length, that maximises <pull, e> / norm(e); for a callable norm, the pull itself."""
    if norm == math.inf:
        return pull.sign()
    if norm == 1:
        flat = pull.reshape(len(pull), -1)
        largest = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).reshape(pull.shape)
    return pull
