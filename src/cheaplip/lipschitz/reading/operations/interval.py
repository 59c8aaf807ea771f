"""Intervals of values, and what affine maps share: weights that follow the model, biases, rounded intervals."""

from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.lipschitz.rounding import EPS

__all__ = ["Interval", "Weight", "add_bias", "affine_interval"]

Weight = Callable[[], Tensor]
"""Gives the layer's present weight in float64, so that a chain follows its model through training."""

Interval = tuple[Tensor, Tensor]
"""Smallest and largest values, each (B, \\*shape) float64."""


def add_bias(x: Tensor, bias: Weight | None) -> Tensor:
    """Add the bias, where there is one, in the type of ``x``."""
    return x if bias is None else x + bias().to(x.dtype)


def affine_interval(
    x: Interval,
    function: Callable[[Tensor], Tensor],
    absolute: Callable[[Tensor], Tensor],
    bias: Weight | None,
    terms: int,
) -> Interval:
    """Enclose x ↦ A x + b between f(c) − |A| r and f(c) + |A| r, for an interval with centre c and radius r.

    Args:
        x: the interval of the input.
        function: f, the map itself.
        absolute: |A|, without the bias.
        bias: b, or None.
        terms: how many products each output sums. Their rounding, in units of |A| max(|low|, |high|) + |b|, widens
            the result.
    """
    low, high = x
    centre, radius = (low + high) / 2, (high - low) / 2
    largest = absolute(torch.maximum(low.abs(), high.abs()))
    if bias is not None:
        largest = largest + bias().detach().abs()
    middle = function(centre).detach()
    reach = absolute(radius) + 4 * (terms + 8) * EPS * largest
    return middle - reach, middle + reach
