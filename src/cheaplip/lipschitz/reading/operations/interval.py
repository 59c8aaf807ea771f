"""Intervals of values, and what affine maps share: weights that follow the model, biases, rounded intervals."""

from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.lipschitz.rounding import EPS, LEAST, UNDERFLOW, UP

__all__ = ["Interval", "Weight", "add_bias", "affine_interval", "norms_above", "size_of"]

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
    bias_size: Tensor | None,
    terms: int,
) -> Interval:
    """Enclose x ↦ A x + b between f(c) − |A| r and f(c) + |A| r, for an interval with centre c and radius r.

    Args:
        x: the interval of the input.
        function: f, the map itself.
        absolute: |A|, without the bias.
        bias_size: |b|, or more where b was computed from terms that may cancel, see :func:`size_of`; None without a
            bias.
        terms: how many products each output sums. Their rounding, in units of |A| max(|low|, |high|) + |b|, widens
            the result.
    """
    low, high = x
    centre, radius = (low + high) / 2, (high - low) / 2
    largest = absolute(torch.maximum(low.abs(), high.abs()))
    if bias_size is not None:
        largest = largest + bias_size
    middle = function(centre).detach()
    reach = absolute(radius) + 4 * (terms + 8) * EPS * largest + UNDERFLOW
    return middle - reach, middle + reach


def size_of(bias: Weight | None, terms: Weight | None) -> Tensor | None:
    """Return the size of a bias, in units of which it is rounded: the sum of the sizes of its terms, if there are any.

    Args:
        bias: or None.
        terms: the sum of the sizes of what the bias was computed from; None: it is as it is stored.
    """
    if bias is None:
        return None
    return bias().detach().abs() if terms is None else terms().detach()


def norms_above(x: Tensor) -> Tensor:
    """Bound the Euclidean norms over the last dimension from above, however large or small the entries are."""
    size = x.abs().amax(dim=-1)
    unit = torch.where((size > 0) & torch.isfinite(size), size, 1.0)
    norms: Tensor = torch.linalg.vector_norm(x / unit.unsqueeze(-1), dim=-1) * unit
    return norms * UP + LEAST
