"""One number for the quotients of all pairs: their maximum, a smooth maximum, or their mean."""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Aggregate", "shares", "weighted_aggregate"]

Aggregate = Literal["max", "softmax", "mean"]
"""What the penalty makes of the quotients of all pairs; :class:`CLIP` explains each."""

_TEMPERATURE = 0.2  # of the softmax over quotients, in units of the largest


def weighted_aggregate(quotients: Tensor, weight: Tensor, aggregate: Aggregate, *, largest: Tensor) -> Tensor:
    r"""Compute ``weight`` times the aggregate of the quotients.

    For ``"softmax"`` the aggregate is :math:`T \log\frac1n\sum_i e^{L_i/T}`, here as
    :math:`P - T\log n + T \log\sum_i e^{(L_i-P)/T}` with the largest quotient P and T = 0.2 P.

    Args:
        quotients: of all processes, (n,).
        weight: of the penalty, a scalar.
        aggregate: which one.
        largest: the largest of the quotients, a scalar without gradient.

    Returns:
        A scalar, differentiable with respect to the quotients.
    """
    if aggregate == "max":
        return weight * quotients.amax()
    if aggregate == "mean":
        return weight * quotients.mean()
    temperature = _less(largest, 1 - _TEMPERATURE)
    log_sum = ((quotients - largest) / temperature.clamp_min(torch.finfo(quotients.dtype).tiny)).exp().sum().log()
    level = _less(weight * largest, _TEMPERATURE * math.log(len(quotients)))
    return torch.addcmul(level, weight * temperature, log_sum)  # level + weight · temperature · log_sum


def shares(quotients: Tensor, aggregate: Aggregate) -> Tensor:
    """Compute the derivative of the aggregate with respect to each quotient, (n,); they add up to 1."""
    if aggregate == "max":
        largest = (quotients == quotients.amax()).to(quotients)
        return largest / largest.sum()
    if aggregate == "mean":
        return torch.full_like(quotients, 1 / len(quotients))
    temperature = _TEMPERATURE * quotients.amax()
    return (quotients / temperature.clamp_min(torch.finfo(quotients.dtype).tiny)).softmax(dim=0)


def _less(x: Tensor, share: float) -> Tensor:
    """``(1 - share) * x`` in 1.8 µs; written like that it takes 3.0, as the number becomes a tensor first."""
    return torch.sub(x, x, alpha=share)
