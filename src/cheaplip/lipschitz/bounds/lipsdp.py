r"""LipSDP bounds of Lip(f), 2 → 2, for f = W_L φ(… φ(W_1 x)) with one range of slopes for each neuron.

``certify`` turns any multipliers into a bound that holds in exact arithmetic (the rounding margin is derived in
:mod:`cheaplip.lipschitz.bounds.layer`). ``closed_form`` computes multipliers from one elimination, ``optimise`` finds
the best ones, and ``pair_bounds`` bounds every difference of two outputs. ``product`` is the product of norms.
"""

import math
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.descent import descend
from cheaplip.lipschitz.bounds.elimination import Elimination, exponent_of
from cheaplip.lipschitz.bounds.interior_point import follow_path, size
from cheaplip.lipschitz.bounds.layer import eliminate, top_eigenvalue
from cheaplip.lipschitz.rounding import EPS, NONZERO, above, power_up, product_up

__all__ = [
    "ProvedBound",
    "Slopes",
    "certify",
    "closed_form",
    "elimination_time",
    "from_joint",
    "newton_time",
    "optimise",
    "pair_bounds",
    "product",
    "shortest_time",
]

Slopes = Sequence[tuple[Tensor, Tensor]]
"""Lowest and highest slope of the neurons of each hidden layer, (n,) or scalars."""

_NEWTON_RATE = 2.5e7  # cube of F's dimension for which Newton's method takes a second at most
_EIGENVALUE_RATE = 4e9  # cube of a matrix's side whose eigenvalues take a second
_ELIMINATION_RATE = 2e10  # multiplications of an elimination in a second
_FEW = above(4)  # for a square root or two products


class ProvedBound(NamedTuple):
    """A bound that multipliers prove.

    Attributes:
        value: Lip(f) ≤ value, for the float64 weights in exact arithmetic; inf if nothing could be proved.
        reason: why it is inf; empty otherwise.
    """

    value: float
    reason: str


def product(weights: Sequence[Tensor], slopes: Slopes) -> float:
    """Multiply the spectral norms and the largest slopes in size, rounding upwards.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.
    """
    norms = [certify([weight], [], []).value for weight in weights]
    steepest = [max(float(torch.as_tensor(end).abs().max()) for end in both) for both in slopes]
    return product_up(*norms, *steepest)


def closed_form(weights: Sequence[Tensor], slopes: Slopes) -> list[Tensor]:
    """Compute multipliers T = λ D (1 + |c|/r) / 2 in one elimination, D a power of G's diagonal and λ with G ≼ λD.

    The best of the powers 0, ½ and 1 is taken. All are feasible but for rounding. Power 0 gives λ Wᵀ max(α², β²) W, and
    so at most the product of norms; it is the best one where G is a multiple of the identity. |c|/r is at least 0.05.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.

    Returns:
        For each hidden layer, (n,).
    """
    problem = Elimination.of(weights, slopes)
    return problem.ordered(first_guess(problem))


def optimise(
    weights: Sequence[Tensor],
    slopes: Slopes,
    *,
    start: Sequence[Tensor] | None = None,
    accuracy: float = 1e-4,
    seconds: float = 10.0,
) -> list[Tensor]:
    """Find the multipliers with the smallest bound, by Newton's method if there is time for it, else by descent.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.
        start: multipliers to start from. None, or infeasible ones: the closed form.
        accuracy: relative, of the bound.
        seconds: about the most time to take.

    Returns:
        For each hidden layer, (n,).
    """
    deadline = time.monotonic() + seconds
    problem = Elimination.of(weights, slopes)
    given = None if start is None else problem.ordered([t.detach().cpu().double() for t in start])
    return problem.ordered(solve(problem, given, accuracy, max(0.0, deadline - time.monotonic())))


def from_joint(weights: Sequence[Tensor], joint: Sequence[Tensor]) -> list[Tensor] | None:
    """Convert multipliers S of joint matrices, as in :mod:`cheaplip.lipschitz.bounds.fourier.gram`, to those used here.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        joint: for each hidden layer, (n,), positive.

    Returns:
        For each hidden layer, (n,). None: this network is eliminated from its outputs, where there is no counterpart.
    """
    if len(weights[-1]) > weights[0].shape[1]:
        return None
    grown = accumulate(exponent_of(weight) for weight in weights)
    return [s.detach().cpu().double() / 2 * 4.0**-k for s, k in zip(joint, grown, strict=False)]


def certify(weights: Sequence[Tensor], slopes: Slopes, multipliers: Sequence[Tensor]) -> ProvedBound:
    """Compute the bound that ``multipliers`` prove, from the weights, with every rounding error on the safe side.

    Args:
        weights: W_1 … W_L, each (n_out, n_in), finite.
        slopes: of the hidden layers.
        multipliers: for each hidden layer (n,), positive.

    Raises:
        ValueError: shapes do not fit, or weights or slopes are not finite.
    """
    problem = Elimination.of(weights, slopes)
    return evaluate(problem, problem.ordered([t.detach().cpu().double() for t in multipliers]))


def pair_bounds(weights: Sequence[Tensor], slopes: Slopes, *, accuracy: float = 1e-3, seconds: float = 10.0) -> Tensor:
    """Bound Lip(f_i − f_j) for every pair of outputs.

    Each pair has the smaller of two bounds: that of the best multipliers of the whole network, and that of its own
    multipliers, as good as they get in its share of the time.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.
        accuracy: relative, of each bound.
        seconds: about the most time to take.

    Returns:
        (n_out, n_out), symmetric, 0 on the diagonal; inf where nothing could be proved.
    """
    deadline = time.monotonic() + seconds
    last = weights[-1].detach().cpu().double()
    bounds = last.new_zeros(len(last), len(last))
    pairs = torch.combinations(torch.arange(len(last))).tolist()
    start: list[Tensor] | None = None
    for done, (i, j) in enumerate(pairs):
        row = (last[i] - last[j]).unsqueeze(0)
        if not bool(torch.isfinite(row).all()):
            bounds[i, j] = bounds[j, i] = math.inf
            continue
        problem = Elimination.of([*weights[:-1], row], slopes, forward=True)
        if start is None:
            whole = Elimination.of(weights, slopes, forward=True)
            start = solve(whole, None, accuracy, seconds / 2)
            rounding = product([*weights[:-1], torch.eye(len(weights[-2]))], slopes) if slopes else 1.0
        limit = max(0.0, deadline - time.monotonic()) / (len(pairs) - done)
        value = min(evaluate(problem, some).value for some in (start, solve(problem, None, accuracy, limit)))
        lost = product_up(EPS, float(row.abs().sum()), rounding)  # as the difference was rounded
        bounds[i, j] = bounds[j, i] = (value + lost) * _FEW
    return bounds


def solve(problem: Elimination, start: list[Tensor] | None, accuracy: float, seconds: float) -> list[Tensor]:
    """Do what :func:`optimise` does, with multipliers in the order of elimination."""
    deadline = time.monotonic() + seconds
    multipliers = start if start is not None and problem.feasible(start) else first_guess(problem, seconds)
    if not problem.layers or time.monotonic() > deadline:
        return multipliers
    before = time.monotonic()
    value = evaluate(problem, multipliers).value
    deadline -= 2 * (time.monotonic() - before)  # for the evaluation of what is found, here and by the caller
    if value == math.inf or value <= (1 + accuracy) * _floor(problem) or time.monotonic() > deadline:
        return multipliers
    search = follow_path if size(problem) ** 3 <= seconds * _NEWTON_RATE else descend
    found = search(problem, multipliers, accuracy=accuracy, deadline=deadline)
    return found if evaluate(problem, found).value < value else multipliers


def _floor(problem: Elimination) -> float:
    """Return ‖W_L D … D W_1‖ with the slopes largest in size: a Jacobian the bound allows for, so none is smaller."""
    product = problem.first
    for layer in problem.layers:
        product = (product * torch.where(layer.high.abs() >= layer.low.abs(), layer.high, layer.low)) @ layer.weight
    gram = product @ product.mT if product.shape[0] <= product.shape[1] else product.mT @ product
    if not bool(torch.isfinite(gram).all()):
        return 0.0
    floor = power_up(math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))), problem.exponent)
    return floor if floor < math.inf else 0.0


def shortest_time(weights: Sequence[Tensor]) -> float:
    """Estimate how many seconds the first multipliers take: most of them for the eigenvalues of each layer's matrix."""
    sides = [min(weights[0].shape), *(len(weight) for weight in weights[:-1]), min(weights[-1].shape)]
    return sum(side**3 for side in sides) / _EIGENVALUE_RATE


def newton_time(weights: Sequence[Tensor], slopes: Slopes) -> float:
    """Estimate how many seconds Newton's method takes at most."""
    bent = sum(int((torch.as_tensor(low) < torch.as_tensor(high)).sum()) for low, high in slopes)
    return (bent + min(len(weights[-1]), weights[0].shape[1])) ** 3 / _NEWTON_RATE


def elimination_time(weights: Sequence[Tensor]) -> float:
    """Estimate how many seconds one elimination of the hidden layers takes."""
    sizes = [(len(weight), after.shape[0]) for weight, after in pairwise(weights)]
    return sum(n**3 / 3 + n * n * m + n * m * m for n, m in sizes) / _ELIMINATION_RATE


def first_guess(problem: Elimination, seconds: float = math.inf) -> list[Tensor]:
    """Do what :func:`closed_form` does, in the order of elimination; with power 0 alone if time is short."""
    started = time.monotonic()
    candidates = [_scaled_diagonals(problem, 0.0)]
    if 4 * (time.monotonic() - started) <= seconds:
        candidates += [_scaled_diagonals(problem, power) for power in (0.5, 1.0)]
    return min(candidates, key=lambda some: evaluate(problem, some).value)


def _scaled_diagonals(problem: Elimination, power: float) -> list[Tensor]:
    """Compute the multipliers of :func:`closed_form` for one power of the diagonal."""
    gram = problem.gram
    multipliers: list[Tensor] = []
    for layer in problem.layers:
        diagonal = gram.diagonal()
        shape = (diagonal + 1e-6 * diagonal.mean() + NONZERO) ** power
        root = shape.rsqrt()
        balanced = root.unsqueeze(1) * gram * root
        if not bool(torch.isfinite(balanced).all()):
            return [torch.ones_like(layer.low) for layer in problem.layers]  # infeasible, as the layer overflows
        largest = torch.linalg.eigvalsh(balanced)[-1].clamp_min(NONZERO)
        skew = (layer.center.abs() / layer.radius).nan_to_num(1.0, posinf=1.0).clamp_min(0.05)
        multipliers.append(largest * shape * (1 + skew) / 2)
        done = eliminate(gram, layer, multipliers[-1])
        if done is None:
            return [*multipliers, *(layer.low.new_ones(len(layer.low)) for layer in problem.layers[len(multipliers) :])]
        gram = done.gram
    return multipliers


def evaluate(problem: Elimination, multipliers: Sequence[Tensor]) -> ProvedBound:
    """Do what :func:`certify` does, with multipliers in the order of elimination."""
    eliminated = problem.run(multipliers, rigorous=True)
    if len(eliminated) < len(problem.layers):
        hidden = len(eliminated) + 1 if problem.forward else len(problem.layers) - len(eliminated)
        return ProvedBound(
            math.inf, f"hidden layer {hidden}: 2T − G is not certainly positive definite for these multipliers"
        )
    gram = eliminated[-1].gram if eliminated else problem.gram
    top = top_eigenvalue(gram)
    if top == math.inf:
        return ProvedBound(math.inf, "the largest eigenvalue could not be certified")
    value = power_up(math.sqrt(top) * _FEW, problem.exponent)
    return ProvedBound(value, "" if value < math.inf else "the bound is above the largest float64")
