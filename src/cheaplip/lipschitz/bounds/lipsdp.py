r"""Upper bounds of Lip(f), 2 → 2, for f = W_L φ(… φ(W_1 x)) with one range of slopes for each neuron.

``product`` is the usual one; ``certify`` turns any multipliers into a bound that holds to the last bit (see
:mod:`cheaplip.lipschitz.bounds.elimination`, where the rounding margin is derived); ``closed_form`` finds multipliers
at once, ``optimise`` the best ones, and ``pair_bounds`` bounds every difference of two outputs.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.descent import descend
from cheaplip.lipschitz.bounds.elimination import Elimination, eliminate, top_eigenvalue
from cheaplip.lipschitz.bounds.interior import follow_path, size

__all__ = ["Certificate", "Slopes", "certify", "closed_form", "optimise", "pair_bounds", "product"]

Slopes = Sequence[tuple[Tensor, Tensor]]
"""For each hidden layer its neurons' lowest and highest slope, (n,) or scalars."""

_NEWTON_RATE = 2.5e7  # cubes of F's dimension for which Newton's method takes a second, with room
_UP = 1 + 2.0**-50


class Certificate(NamedTuple):
    """A bound and how it came about.

    Attributes:
        value: Lip(f) ≤ value, for the float64 weights in exact arithmetic; inf if nothing could be proved.
        reason: why it is inf; empty otherwise.
    """

    value: float
    reason: str


def product(weights: Sequence[Tensor], slopes: Slopes) -> float:
    """The product of the spectral norms and of the largest slopes in size, rounded up.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.
    """
    value = 1.0
    for weight in weights:
        value *= certify([weight], [], []).value * _UP
    for low, high in slopes:
        value *= float(torch.maximum(torch.as_tensor(low).abs().max(), torch.as_tensor(high).abs().max())) * _UP
    return value


def closed_form(weights: Sequence[Tensor], slopes: Slopes) -> list[Tensor]:
    """Multipliers from one elimination: T = λ D (1 + |c|/r) / 2, with D a power of G's diagonal, and λ so that G ≼ λD.

    The best of the powers 0, ½ and 1 is taken. All are feasible but for rounding; power 0 is best for G = λ, and then
    and always at most the product of norms, as it gives λ Wᵀ max(α², β²) W. (Where |c|/r < 0.05, it is taken as 0.05.)

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
    """The multipliers with the smallest bound: by Newton's method where it fits in the time, otherwise by descent.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.
        start: multipliers to start from. None, or infeasible ones: the closed form.
        accuracy: relative, of the bound.
        seconds: most time to take, about.

    Returns:
        For each hidden layer, (n,).
    """
    problem = Elimination.of(weights, slopes)
    given = None if start is None else problem.ordered([t.detach().cpu().double() for t in start])
    return problem.ordered(solve(problem, given, accuracy, seconds))


def certify(weights: Sequence[Tensor], slopes: Slopes, multipliers: Sequence[Tensor]) -> Certificate:
    """The bound that ``multipliers`` prove, recomputed from the weights with every rounding error on the safe side.

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
    """Bounds of Lip(f_i − f_j) for every pair of outputs.

    Each pair has the smaller of two: what the best multipliers of the whole network prove for it, and what its own do,
    as good as they get in its share of the time.

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the hidden layers.
        accuracy: relative, of each bound.
        seconds: most time to take, about.

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
        problem = Elimination.of([*weights[:-1], row], slopes, forward=True)
        if start is None:
            whole = Elimination.of(weights, slopes, forward=True)
            start = solve(whole, None, accuracy, seconds / 2)
            rounding = product([*weights[:-1], torch.eye(len(weights[-2]))], slopes) if slopes else 1.0
        limit = max(0.0, deadline - time.monotonic()) / (len(pairs) - done)
        value = min(evaluate(problem, some).value for some in (start, solve(problem, None, accuracy, limit)))
        bounds[i, j] = bounds[j, i] = value + 2.0**-52 * float(row.norm()) * rounding  # the difference was rounded
    return bounds


def solve(problem: Elimination, start: list[Tensor] | None, accuracy: float, seconds: float) -> list[Tensor]:
    """As :func:`optimise`, with multipliers in the order of elimination."""
    deadline = time.monotonic() + seconds
    multipliers = start if start is not None and problem.feasible(start) else first_guess(problem)
    if not problem.layers or not problem.feasible(multipliers):
        return multipliers
    if evaluate(problem, multipliers).value <= (1 + accuracy) * _floor(problem):
        return multipliers
    search = follow_path if size(problem) ** 3 <= seconds * _NEWTON_RATE else descend
    found = search(problem, multipliers, accuracy=accuracy, deadline=deadline)
    return min((multipliers, found), key=lambda some: evaluate(problem, some).value)


def _floor(problem: Elimination) -> float:
    """‖W_L D … D W_1‖ with the slopes largest in size, a Jacobian that multipliers allow for: no bound is smaller."""
    product = problem.first
    for layer in problem.layers:
        product = (product * torch.where(layer.high.abs() >= layer.low.abs(), layer.high, layer.low)) @ layer.weight
    gram = product @ product.mT if product.shape[0] <= product.shape[1] else product.mT @ product
    if not bool(torch.isfinite(gram).all()):
        return 0.0
    return math.ldexp(math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))), problem.exponent)


def first_guess(problem: Elimination) -> list[Tensor]:
    """As :func:`closed_form`, in the order of elimination."""
    candidates = [_scaled_diagonals(problem, power) for power in (0.0, 0.5, 1.0)]
    return min(candidates, key=lambda some: evaluate(problem, some).value)


def _scaled_diagonals(problem: Elimination, power: float) -> list[Tensor]:
    gram = problem.gram
    multipliers: list[Tensor] = []
    for layer in problem.layers:
        diagonal = gram.diagonal()
        shape = (diagonal + 1e-6 * diagonal.mean() + 1e-290) ** power
        root = shape.rsqrt()
        largest = torch.linalg.eigvalsh(root.unsqueeze(1) * gram * root)[-1].clamp_min(1e-290)
        skew = (layer.center.abs() / layer.radius).nan_to_num(1.0, posinf=1.0).clamp_min(0.05)
        multipliers.append(largest * shape * (1 + skew) / 2)
        step = eliminate(gram, layer, multipliers[-1])
        if step is None:
            return [*multipliers, *(layer.low.new_ones(len(layer.low)) for layer in problem.layers[len(multipliers) :])]
        gram = step.gram
    return multipliers


def evaluate(problem: Elimination, multipliers: Sequence[Tensor]) -> Certificate:
    """The bound that multipliers, in the order of elimination, prove; see :func:`certify`."""
    steps = problem.run(multipliers, rigorous=True)
    if len(steps) < len(problem.layers):
        hidden = len(steps) + 1 if problem.forward else len(problem.layers) - len(steps)
        return Certificate(
            math.inf, f"hidden layer {hidden}: 2T − G is not certainly positive definite for these multipliers"
        )
    gram = steps[-1].gram if steps else problem.gram
    top = top_eigenvalue(gram)
    if top == math.inf:
        return Certificate(math.inf, "the largest eigenvalue could not be certified")
    try:
        return Certificate(math.ldexp(math.sqrt(top) * _UP, problem.exponent), "")
    except OverflowError:
        return Certificate(math.inf, "the bound is above the largest float64")
