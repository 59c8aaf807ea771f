"""Margins that turn a float64 result into a bound of the exact one; each has one name and one value.

A margin stands here if two modules need it. One that follows from an error analysis of its own, such as that of
:mod:`cheaplip.lipschitz.bounds.layer`, stands beside that analysis.
"""

import math

import torch

__all__ = ["EPS", "LEAST", "NONZERO", "UNDERFLOW", "UP", "above", "below", "power_up", "product_up"]

EPS = torch.finfo(torch.float64).eps
"""Distance from 1 to the next float64, 2⁻⁵²; one rounding changes a number by at most half of it, relatively."""

UP = 1 + 1e-12
"""Factor that covers a sum of up to a few million non-negative terms and the products around it."""

UNDERFLOW = 1e-280
"""Added to a bound whose terms may underflow; above everything that can be lost that way."""

LEAST = 5e-324
"""The smallest positive float64; at most that much is lost where a product or a quotient underflows."""

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


def product_up(*factors: float) -> float:
    """Multiply factors of 0 or more, rounding upwards: a product of positive factors is positive, however small.

    Infinite if any factor is infinite or NaN, which stand for an unknown one, even beside a 0.
    """
    if not all(factor < math.inf for factor in factors):
        return math.inf
    if 0 in factors:
        return 0.0
    mantissa, exponent = 1.0, 0
    for factor in factors:
        own, shift = math.frexp(factor)
        mantissa, further = math.frexp(math.nextafter(mantissa * own, math.inf))
        exponent += shift + further
    return power_up(mantissa, exponent)


def power_up(value: float, exponent: int) -> float:
    """Return value · 2**exponent, for a value of 0 or more, rounded upwards; inf above the largest float64."""
    try:
        scaled = math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
    tiny = value > 0 and scaled < 2.0**-1021  # the result may have been rounded
    return math.nextafter(scaled, math.inf) if tiny else scaled
