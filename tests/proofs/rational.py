"""Piecewise linear networks along a line, in rational arithmetic: the exact slope of every piece, without rounding."""

import math
from fractions import Fraction
from itertools import pairwise

import torch
from torch import nn

KNOWN = (nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Identity)


def is_rational(model, most=6):
    """Whether the model is a short sequence of layers that this module knows."""
    return (
        isinstance(model, nn.Sequential)
        and all(type(layer) in KNOWN for layer in model)
        and sum(layer.out_features for layer in model if isinstance(layer, nn.Linear)) <= 2 * most + 2
    )


def exact_vector(x):
    return [Fraction(value) for value in x.detach().double().flatten().tolist()]


def value(model, x):
    """The exact outputs for one input, a list of fractions."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            x = _affine(layer, x, with_bias=True)
        elif not isinstance(layer, nn.Identity):
            slope = _negative_slope(layer)
            x = [v if v > 0 else slope * v for v in x]
    return x


def square_of_witness(model, u, v):
    """The exact quotient of a pair in the Euclidean norm, squared; 0 where u = v."""
    u, v = exact_vector(u), exact_vector(v)
    run = sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
    rise = sum((a - b) ** 2 for a, b in zip(value(model, u), value(model, v), strict=True))
    return rise / run if run else Fraction(0)


def square_of_steepest(model, start, direction, low=None, high=None):
    """The largest slope of any piece along start + t direction, low < t < high, in the Euclidean norm, squared.

    Args:
        start, direction: lists of fractions.
        low, high: fractions; None: no end.
    """
    pieces = [(low, high, start, direction)]
    for layer in model:
        if isinstance(layer, nn.Linear):
            pieces = [
                (a, b, _affine(layer, at, with_bias=True), _affine(layer, slope, with_bias=False))
                for a, b, at, slope in pieces
            ]
        elif not isinstance(layer, nn.Identity):
            factor = _negative_slope(layer)
            pieces = [bent for piece in pieces for bent in _bent(*piece, factor)]
    return max(sum(s**2 for s in slope) for *_, slope in pieces) / sum(s**2 for s in direction)


def _bent(low, high, at, slope, factor):
    """The pieces of an activation with one kink at 0."""
    kinks = sorted({-a / s for a, s in zip(at, slope, strict=True) if s})
    kinks = [t for t in kinks if (low is None or t > low) and (high is None or t < high)]
    ends = [low, *kinks, high]
    for a, b in pairwise(ends):
        inside = _between(a, b)
        on = [p + inside * s > 0 for p, s in zip(at, slope, strict=True)]
        yield (
            *(a, b),
            [p if o else factor * p for p, o in zip(at, on, strict=True)],
            [s if o else factor * s for s, o in zip(slope, on, strict=True)],
        )


def _between(low, high):
    if low is None:
        return Fraction(0) if high is None else high - 1
    return low + 1 if high is None else (low + high) / 2


def _affine(layer, x, *, with_bias):
    rows = [[Fraction(w) for w in row] for row in layer.weight.detach().double().tolist()]
    result = [sum((w * v for w, v in zip(row, x, strict=True) if w), Fraction(0)) for row in rows]
    if with_bias and layer.bias is not None:
        result = [r + Fraction(b) for r, b in zip(result, layer.bias.detach().double().tolist(), strict=True)]
    return result


def _negative_slope(layer):
    return Fraction(layer.negative_slope) if isinstance(layer, nn.LeakyReLU) else Fraction(0)


def range_inside(domain, shape, start, direction):
    """The t for which start + t direction stays in the domain, as fractions; None: no end; "outside" if none does."""
    if domain is None or not hasattr(domain, "low"):
        return (None, None) if domain is None else "outside"
    low, high = (b.expand(shape).flatten().tolist() for b in domain.bounds(torch.device("cpu"), torch.float64))
    ends = [None, None]
    for p, d, lo, hi in zip(start, direction, low, high, strict=True):
        if not d:
            continue
        walls = [(Fraction(w) - p) / d if math.isfinite(w) else None for w in ((lo, hi) if d > 0 else (hi, lo))]
        if walls[0] is not None:
            ends[0] = walls[0] if ends[0] is None else max(ends[0], walls[0])
        if walls[1] is not None:
            ends[1] = walls[1] if ends[1] is None else min(ends[1], walls[1])
    return "outside" if None not in ends and ends[0] >= ends[1] else tuple(ends)
