"""The lower end: a search from many starts for the pair of inputs with the largest quotient, evaluated in float64."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Domain
from cheaplip.lipschitz.rounding import NONZERO
from cheaplip.lipschitz.search.arithmetic import Arithmetic
from cheaplip.lipschitz.search.budget import Budget
from cheaplip.lipschitz.search.scoring import Enclosure, Scoring
from cheaplip.lipschitz.search.space import SearchSpace
from cheaplip.lipschitz.search.steepest import steepest_points
from cheaplip.lipschitz.search.switching import Switches
from cheaplip.model import Model, in_float64
from cheaplip.modes import evaluation_mode
from cheaplip.pairs import PairSet
from cheaplip.quotient import TINY, Norm, column, distance

__all__ = ["Enclosure", "Lower", "check_budget", "largest_quotient", "proved_quotient"]

_DISTANCES = (0.002, 0.1, 0.05)  # of the pairs; smallest, largest and initial, in the data's scale
_FINAL_DISTANCES = (1e-6, 1e-4, 1e-4)  # of the finalists in float64
_STEP_SIZES = (0.03, 0.0005)  # first and last, in the data's scale
_FINALISTS = 16
_REFINEMENTS = 20  # steps of the finalists
_HALVES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # half distances of pairs about a point, in the data's scale
_VOUCHED = 0.5  # share of the largest quotient below which intervals are too wide to be of use, as in deep networks


class Lower(NamedTuple):
    r"""A lower bound of Lip(f), and the pair of inputs that shows it.

    Attributes:
        value: the quotient of ``witness`` in float64, minus what rounding may have added.
        witness: two inputs, each (\*input), float64.
        kind: "proved": the value is below the exact quotient, by interval arithmetic. "estimate": the rounding error
            was estimated, from evaluations with deliberate errors; for a model that cannot be evaluated in float64, in
            its own type.
    """

    value: float
    witness: tuple[Tensor, Tensor]
    kind: Literal["proved", "estimate"] = "estimate"


def largest_quotient(
    model: Model,
    x: Tensor,
    *,
    domain: Domain | None = None,
    starts: PairSet | None = None,
    size: int = 512,
    steps: int = 100,
    seconds: float | None = None,
    norm_in: Norm = 2,
    norm_out: Norm = 2,
    generator: torch.Generator | None = None,
    enclosure: Enclosure | None = None,
    switches: Switches | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Lower:
    r"""Search for the largest quotient: over pairs of inputs and, in the Euclidean norm, over points.

    ``size`` pairs climb from the data, with shrinking steps. Then points compete for the steepest slope ‖J(x)‖₂, each
    with a direction d from power iterations, which need products with J and Jᵀ only. The best become pairs x ± h d,
    with h from large to small. The result is a lower bound of Lip(f), however short the search. The model's modes and
    gradients stay as they were.

    Args:
        model: one tensor in, one tensor out.
        x: inputs to start from, (B, \*input).
        domain: where inputs live. None: all of space.
        starts: more pairs to start from, such as those of training.
        size: number of pairs that start from ``x``.
        steps: of the climbing pairs, each one forward and one backward pass over all of them; the points have as many
            rounds.
        seconds: time limit; at least one step is taken. None: no limit.
        norm_in, norm_out: as in :func:`cheaplip.quotient.quotient`.
        generator: randomness of the starts. None: a new one with seed 0.
        enclosure: encloses the model's exact outputs, so that the value is certainly below the exact quotient. Without
            it, or where it proves less than half of the quotient found, the rounding error is estimated; see
            :class:`Lower`.
        switches: values that vanish where an activation of the model switches; points try to get there.
        progress: called with (steps done, steps in all).

    Returns:
        The largest quotient that was found, and its pair.

    Raises:
        ValueError: ``steps`` or ``seconds`` is negative.

    Example:
        >>> import torch
        >>> scale = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.eye_(scale.weight)
        >>> round(largest_quotient(scale, torch.rand(10, 2), size=4, steps=10).value, 6)
        1.0
    """
    check_budget(steps, seconds)
    euclidean = norm_in == 2 and norm_out == 2
    budget = Budget(steps * (2 if euclidean else 1), seconds, progress)
    pairs = PairSet(x, size=size, domain=domain, step="power", renew=0, distances=_DISTANCES, generator=generator)
    if starts is not None:
        pairs.u, pairs.v = torch.cat([pairs.u, starts.u]), torch.cat([pairs.v, starts.v])
        pairs.age = torch.cat([pairs.age, starts.age])
    reserve = budget.left() / 2 if euclidean and seconds is not None else 0.0  # for the points
    best, u, v = _climb(pairs, model, steps, norm_in, norm_out, budget, reserve)
    top = best.topk(min(_FINALISTS, len(best))).indices
    u, v = u[top], v[top]
    if euclidean:
        space = SearchSpace(pairs.domain, pairs.scale, pairs.generator)
        middles = space.domain.project(torch.cat([(u + v) / 2, pairs.pool[:size].to(u)])[: max(size, len(u))])
        found = steepest_points(model, middles, u - v, space, steps, budget, switches)
    if not euclidean or found is None:
        found = (u + v) / 2, (u - v) / distance(u - v, keepdim=True).clamp_min(TINY)
    u, v = _with_neighbours(u, v, *found, pairs)
    return _refine(model, pairs, u, v, Scoring(norm_in, norm_out, enclosure), budget)


def proved_quotient(enclosure: Enclosure | None, found: Lower, norm_in: Norm, norm_out: Norm) -> Lower:
    """Return the pair of a search with what intervals alone prove of its quotient, which may be 0."""
    u, v = found.witness
    value = float(Scoring(norm_in, norm_out, enclosure).proved(u[None], v[None]))
    return Lower(max(0.0, value), found.witness, "proved")


def check_budget(steps: int, seconds: float | None) -> None:
    """Refuse negative numbers.

    Raises:
        ValueError: ``steps`` or ``seconds`` is below 0.
    """
    if steps < 0 or (seconds is not None and not seconds >= 0):
        raise ValueError(f"steps, seconds: expected 0 or more, got {steps} and {seconds}")


def _climb(
    pairs: PairSet, model: Model, steps: int, norm_in: Norm, norm_out: Norm, budget: Budget, reserve: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb with shrinking steps until ``reserve`` seconds are left; return each pair's best quotient, u and v."""
    u, v = pairs.u.clone(), pairs.v.clone()
    best = torch.full((len(u),), -1.0, dtype=u.dtype, device=u.device)
    first, last = _STEP_SIZES
    for step in range(steps + 1):
        pairs.step_size = first * (last / first) ** (step / max(steps, 1))
        before_u, before_v = pairs.u.clone(), pairs.v.clone()
        quotients = pairs.climb_(model, norm_in=norm_in, norm_out=norm_out).to(u)
        better = column(quotients > best, u)
        u, v = torch.where(better, before_u, u), torch.where(better, before_v, v)
        best = torch.where(quotients > best, quotients, best)  # a quotient that is NaN never wins
        if not budget.spend() or budget.left() < reserve:
            break
    return best, u, v


def _with_neighbours(u: Tensor, v: Tensor, x: Tensor, d: Tensor, pairs: PairSet) -> tuple[Tensor, Tensor]:
    """Add to the pairs those about each point in its direction, at several distances, for rounding to matter less."""
    us, vs = [u.double()], [v.double()]
    for half in _HALVES:
        shift = half * float(pairs.scale) * d.double()
        us.append(pairs.domain.project(x.double() + shift))
        vs.append(pairs.domain.project(x.double() - shift))
    return torch.cat(us), torch.cat(vs)


def _refine(model: Model, pairs: PairSet, u: Tensor, v: Tensor, scoring: Scoring, budget: Budget) -> Lower:
    """Shrink the finalists' distances and evaluate, in float64 if the model can be."""
    own = pairs.u.dtype
    exact, arithmetic = _double(model, u)
    if exact is None:
        return _finish(model, pairs, u.to(own), v.to(own), scoring, budget)
    with arithmetic:
        return _finish(exact, pairs, u.double(), v.double(), scoring, budget)


def _double(model: Model, u: Tensor) -> tuple[Model | None, AbstractContextManager[object]]:
    """Return a model that computes in float64 within the context returned; None if there is no such model."""
    exact = in_float64(model)
    promotion = Arithmetic(promote=True)
    try:
        with torch.no_grad(), evaluation_mode(exact), promotion:
            exact(u[:2].double())
    except Exception:  # of a model with a type of its own, such as compiled code
        return None, nullcontext()
    return exact, Arithmetic(promote=True) if promotion.narrower else nullcontext()


@torch.no_grad()
def _finish(model: Model, pairs: PairSet, u: Tensor, v: Tensor, scoring: Scoring, budget: Budget) -> Lower:
    # float32 may lie outside by its rounding, and overflow
    u, v = (pairs.domain.project(end.nan_to_num(0.0)) for end in (u, v))
    values = scoring.first_look(model, u, v)
    top = values.topk(min(_FINALISTS, len(values))).indices
    some = pairs.domain.project(pairs.pool[:256].to(u.dtype))
    finalists = PairSet(some, size=len(top), domain=pairs.domain, renew=0, distances=_FINAL_DISTANCES)
    finalists.u, finalists.v = u[top].clone(), v[top].clone()
    steps = _REFINEMENTS if u.dtype == torch.float64 else 0
    _, near_u, near_v = _climb(finalists, model, steps, scoring.norm_in, scoring.norm_out, budget)
    values = torch.cat([values, scoring.first_look(model, near_u, near_v)])
    u, v = torch.cat([u, near_u]), torch.cat([v, near_v])
    few = _best_by_distance(values, distance(u - v))
    u, v = u[few], v[few]
    kind: Literal["proved", "estimate"] = "proved"
    sure = scoring.proved(u, v)
    if not bool(sure.max() >= _VOUCHED * values.max()):
        estimated = scoring.estimated(model, u, v)
        if not bool(sure.max() >= _VOUCHED * estimated.max()) or scoring.enclosure is None:
            kind, sure = "estimate", estimated
    winner = sure.argmax()
    value = max(0.0, float(sure[winner]))
    return Lower(value, (u[winner].double(), v[winner].double()), kind if value > 0 else "proved")


def _best_by_distance(values: Tensor, distances: Tensor) -> Tensor:
    """Return the best pair of each order of magnitude of distance: rounding matters more for nearer ones."""
    decades = torch.log10(distances.clamp_min(NONZERO)).floor()
    return torch.stack([torch.where(decades == d, values, -2.0).argmax() for d in sorted(set(decades.tolist()))])
