"""Margins that turn a float64 result into a bound of the exact one; each has one name and one value.

A margin stands here if two modules need it. One that follows from an error analysis of its own, such as that of
:mod:`cheaplip.lipschitz.bounds.layer`, stands beside that analysis.
"""

import torch

__all__ = ["EPS", "NONZERO", "UNDERFLOW", "UP", "above", "below"]

EPS = torch.finfo(torch.float64).eps
"""Distance from 1 to the next float64, 2⁻⁵²; one rounding changes a number by at most half of it, relatively."""

UP = 1 + 1e-12
"""Factor that covers a sum of up to a few million non-negative terms and the products around it."""

UNDERFLOW = 1e-280
"""Added to a bound whose terms may underflow; above everything that can be lost that way."""

NONZERO = 1e-290
"""Stands in for 0 in divisors and logarithms of float64; no proof depends on it."""


def above(roundings: int) -> float:
    """Return the factor that covers so many roundings of a positive number, twice over.

    Unlike :data:`UP`, it is for a known, small number of operations, where a bound should lose nothing visible.
    """
    return 1 + roundings * EPS


def below(roundings: int) -> float:
    """Return the counterpart of :func:`above`, which rounds downwards."""
    return 1 - roundings * EPS
