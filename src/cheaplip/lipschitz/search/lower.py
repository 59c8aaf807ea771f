"""The lower end: a search from many starts for the pair of inputs with the largest quotient, evaluated in float64."""

import copy
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.domain import Domain
from cheaplip.lipschitz.rounding import NONZERO
from cheaplip.lipschitz.search.budget import Budget
from cheaplip.lipschitz.search.space import SearchSpace
from cheaplip.lipschitz.search.steepest import steepest_points
from cheaplip.lipschitz.search.switching import Switches
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode
from cheaplip.pairs import PairSet
from cheaplip.quotient import Norm, column, distance, quotient

__all__ = ["Enclosure", "Lower", "check_budget", "largest_quotient"]

Enclosure = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function of inputs (B, \\*input) float64 to values that are certainly below and above the exact outputs."""

_DISTANCES = (0.002, 0.1, 0.05)  # of the pairs; smallest, largest and initial, in the data's scale
_FINAL_DISTANCES = (1e-6, 1e-4, 1e-4)  # of the finalists in float64
_STEP_SIZES = (0.03, 0.0005)  # first and last, in the data's scale
_FINALISTS = 16
_REFINEMENTS = 20  # steps of the finalists
_HALVES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # half distances of pairs about a point, in the data's scale
_VOUCHED = 0.5  # share of the largest quotient below which intervals are too wide to be of use, as in deep networks
_OUTPUT_ERROR = 64  # estimated rounding of an output, in units in the last place, where no enclosure is known


class Lower(NamedTuple):
    r"""A lower bound of Lip(f), and the pair of inputs that proves it.

    Attributes:
        value: the quotient of ``witness``, computed in float64, minus what rounding may have added; in the inputs' own
            type for a model that cannot be copied to float64 (a function that holds float32 tensors).
        witness: two inputs, each (\*input), float64.
    """

    value: float
    witness: tuple[Tensor, Tensor]


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
            it, or where it proves less than half of the quotient found, the rounding error is estimated.
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
        if found is not None:
            u, v = _with_neighbours(u, v, *found, space)
    return _refine(model, pairs, u, v, _Scoring(norm_in, norm_out, enclosure), budget)


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


def _with_neighbours(u: Tensor, v: Tensor, x: Tensor, d: Tensor, space: SearchSpace) -> tuple[Tensor, Tensor]:
    """Add to the pairs those about each point in its direction, at several distances."""
    us, vs = [u.double()], [v.double()]
    for half in _HALVES:
        shift = half * float(space.scale) * d.double()
        us.append(space.domain.project(x.double() + shift))
        vs.append(space.domain.project(x.double() - shift))
    return torch.cat(us), torch.cat(vs)


class _Scoring(NamedTuple):
    """How the quotient of a pair is computed and rounded downwards."""

    norm_in: Norm
    norm_out: Norm
    enclosure: Enclosure | None

    def quotients(self, model: Model, u: Tensor, v: Tensor) -> Tensor:
        """Compute each pair's quotient, minus an estimate of what rounding may have added."""
        with evaluation_mode(model):
            fu, fv = model(torch.cat([u, v])).chunk(2)
        return self._less(fu, fv, _OUTPUT_ERROR * torch.finfo(u.dtype).eps * (fu.abs() + fv.abs()), u, v)

    def enclosed(self, u: Tensor, v: Tensor) -> Tensor:
        """Compute each pair's quotient, minus all that rounding can have added."""
        assert self.enclosure is not None
        u, v = u.double(), v.double()
        low, high = self.enclosure(torch.cat([u, v]))
        (fu, fv), (error_u, error_v) = ((low + high) / 2).chunk(2), (high - low).chunk(2)
        return self._less(fu, fv, error_u + error_v, u, v)

    def _less(self, fu: Tensor, fv: Tensor, error: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Subtract what ``error`` in fu − fv, (B, \\*output), can have added; −1 where the result is not finite."""
        norms = {"norm_in": self.norm_in, "norm_out": self.norm_out}
        found = quotient(fu, fv, u, v, **norms) * (1 - 8 * torch.finfo(u.dtype).eps)
        return (found - quotient(error, torch.zeros_like(error), u, v, **norms)).nan_to_num(-1.0, posinf=-1.0)


def _refine(model: Model, pairs: PairSet, u: Tensor, v: Tensor, scoring: _Scoring, budget: Budget) -> Lower:
    """Shrink the finalists' distances and evaluate in float64, if the model can be copied to it."""
    try:
        exact = _double(model)
        return _finish(exact, pairs, u.double(), v.double(), scoring, budget)
    except RuntimeError:  # what torch raises for a copy it cannot make, and for operands of different types
        return _finish(model, pairs, u.to(pairs.u), v.to(pairs.u), scoring, budget)


def _double(model: Model) -> Model:
    if not isinstance(model, nn.Module):
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying what torch.export returns
        return copy.deepcopy(model).double()


@torch.no_grad()
def _finish(model: Model, pairs: PairSet, u: Tensor, v: Tensor, scoring: _Scoring, budget: Budget) -> Lower:
    values = scoring.quotients(model, u, v)
    top = values.topk(min(_FINALISTS, len(values))).indices
    some = pairs.domain.project(pairs.pool[:256].to(u.dtype))  # float32 may lie outside by its rounding
    finalists = PairSet(some, size=len(top), domain=pairs.domain, renew=0, distances=_FINAL_DISTANCES)
    finalists.u, finalists.v = u[top].clone(), v[top].clone()
    steps = _REFINEMENTS if u.dtype == torch.float64 else 0
    _, near_u, near_v = _climb(finalists, model, steps, scoring.norm_in, scoring.norm_out, budget)
    values = torch.cat([values, scoring.quotients(model, near_u, near_v)])
    u, v = torch.cat([u, near_u]), torch.cat([v, near_v])
    if scoring.enclosure is not None:
        few = _best_by_distance(values, distance(u - v))
        sure = scoring.enclosed(u[few], v[few])
        if bool(sure.max() >= _VOUCHED * values.max()):
            u, v, values = u[few], v[few], sure
    winner = values.argmax()
    return Lower(max(0.0, float(values[winner])), (u[winner].double(), v[winner].double()))


def _best_by_distance(values: Tensor, distances: Tensor) -> Tensor:
    """Return the best pair of each order of magnitude of distance: rounding matters more for nearer ones."""
    decades = torch.log10(distances.clamp_min(NONZERO)).floor()
    return torch.stack([torch.where(decades == d, values, -2.0).argmax() for d in sorted(set(decades.tolist()))])
