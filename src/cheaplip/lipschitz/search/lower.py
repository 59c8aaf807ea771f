"""The lower end: a multi-start search for the pair of inputs with the largest quotient, re-evaluated in float64."""

import copy
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.domain import Domain
from cheaplip.lipschitz.search.steepest import Budget, steepest_points
from cheaplip.lipschitz.search.switching import Switches
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode
from cheaplip.pairs import PairSet
from cheaplip.quotient import Norm, distance, quotient

__all__ = ["Enclosure", "Lower", "check_budget", "largest_quotient"]

Enclosure = Callable[[Tensor], tuple[Tensor, Tensor]]
"""For inputs (B, \\*input) float64, what lies certainly below and above the exact outputs."""


class Lower(NamedTuple):
    r"""A lower bound of Lip(f) and the pair that attains it.

    Attributes:
        value: the quotient of ``witness``, computed in float64, less what rounding may have added; in the inputs' own
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
    r"""Search for the largest quotient, over pairs and, in the Euclidean norm, over points.

    ``size`` pairs climb from the data while steps and distances shrink. Then points compete for the steepest slope
    ‖J(x)‖₂, each with its direction d from power iterations with products by J and Jᵀ, never J itself; the best become
    pairs x ± h d, h from large to small. The result is a lower bound of Lip(f): true, however short the search. The
    model's modes and gradients stay as they were.

    Args:
        model: one tensor in, one tensor out.
        x: inputs to start from, (B, \*input).
        domain: where inputs live. None: all of space.
        starts: further pairs to start from, such as those of training.
        size: number of pairs that start from ``x``.
        steps: climbs of the pairs, each one forward and one backward pass over all of them; as many rounds of points.
        seconds: time to stop after, at the earliest after one step. None: only ``steps`` count.
        norm_in, norm_out: as in :func:`cheaplip.quotient.quotient`.
        generator: randomness of the starts. None: a new one with seed 0.
        enclosure: encloses the model's exact outputs, so that the value is below the exact quotient; without it, or
            where it vouches for less than half of what is found, what rounding may have added is estimated.
        switches: of the model's activations, near which the points look, too.
        progress: called with (steps done, steps in all).

    Returns:
        The largest quotient found and its pair.

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
    search = PairSet(x, size=size, domain=domain, step="power", renew=0, distances=_DISTANCES[0], generator=generator)
    if starts is not None:
        search.u, search.v = torch.cat([search.u, starts.u]), torch.cat([search.v, starts.v])
        search.age = torch.cat([search.age, starts.age])
    reserve = budget.left() / 2 if euclidean and seconds is not None else 0.0  # for the points
    best, u, v = _climb(search, model, steps, norm_in, norm_out, budget, reserve)
    top = best.topk(min(_FINALISTS, len(best))).indices
    u, v = u[top], v[top]
    if euclidean:
        middles = search.domain.project(torch.cat([(u + v) / 2, search.pool[:size].to(u)])[: max(size, len(u))])
        found = steepest_points(model, middles, u - v, search, steps, budget, switches)
        if found is not None:
            u, v = _with_neighbours(u, v, *found, search)
    return _refine(model, search, u, v, _Ends(norm_in, norm_out, enclosure), budget)


def check_budget(steps: int, seconds: float | None) -> None:
    """Raise a ``ValueError`` unless both are 0 or more."""
    if steps < 0 or (seconds is not None and not seconds >= 0):
        raise ValueError(f"steps, seconds: expected 0 or more, got {steps} and {seconds}")


_DISTANCES = ((0.002, 0.1, 0.05), (1e-6, 1e-4, 1e-4))  # of the search, and of the finalists in float64
_STEP_SIZES = (0.03, 0.0005)  # first and last, in units of the data's scale
_FINALISTS = 16
_REFINEMENTS = 20
_HALVES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # half distances of pairs about a point, in the data's scale
_VOUCHED = 0.5  # share of what is found; below it, intervals have grown too wide to tell anything, as in deep networks
_ROUNDING = 64  # of an output, in units in the last place, where nothing better is known


def _climb(
    search: PairSet, model: Model, steps: int, norm_in: Norm, norm_out: Norm, budget: Budget, reserve: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb with shrinking steps until ``reserve`` seconds are left; each pair's best quotient and where it was."""
    u, v = search.u.clone(), search.v.clone()
    best = torch.full((len(u),), -1.0, dtype=u.dtype, device=u.device)
    first, last = _STEP_SIZES
    for step in range(steps + 1):
        search.step_size = first * (last / first) ** (step / max(steps, 1))
        before_u, before_v = search.u.clone(), search.v.clone()
        quotients = search.climb_(model, norm_in=norm_in, norm_out=norm_out).to(u)
        better = (quotients > best).reshape(-1, *[1] * (u.dim() - 1))
        u, v = torch.where(better, before_u, u), torch.where(better, before_v, v)
        best = torch.where(quotients > best, quotients, best)  # a quotient that is NaN never wins
        if not budget.spend() or budget.left() < reserve:
            break
    return best, u, v


def _with_neighbours(u: Tensor, v: Tensor, x: Tensor, d: Tensor, search: PairSet) -> tuple[Tensor, Tensor]:
    """The pairs, and those about each point in its direction, at several distances."""
    us, vs = [u.double()], [v.double()]
    for half in _HALVES:
        shift = half * float(search.scale) * d.double()
        us.append(search.domain.project(x.double() + shift))
        vs.append(search.domain.project(x.double() - shift))
    return torch.cat(us), torch.cat(vs)


class _Ends(NamedTuple):
    """How a pair counts in the end."""

    norm_in: Norm
    norm_out: Norm
    enclosure: Enclosure | None

    def quotients(self, model: Model, u: Tensor, v: Tensor) -> Tensor:
        """Each pair's quotient, less what rounding is estimated to have added."""
        with evaluation_mode(model):
            fu, fv = model(torch.cat([u, v])).chunk(2)
        return self._less(fu, fv, _ROUNDING * torch.finfo(u.dtype).eps * (fu.abs() + fv.abs()), u, v)

    def enclosed(self, u: Tensor, v: Tensor) -> Tensor:
        """Each pair's quotient, less what rounding can have added."""
        assert self.enclosure is not None
        u, v = u.double(), v.double()
        low, high = self.enclosure(torch.cat([u, v]))
        (fu, fv), (error_u, error_v) = ((low + high) / 2).chunk(2), (high - low).chunk(2)
        return self._less(fu, fv, error_u + error_v, u, v)

    def _less(self, fu: Tensor, fv: Tensor, error: Tensor, u: Tensor, v: Tensor) -> Tensor:
        norms = {"norm_in": self.norm_in, "norm_out": self.norm_out}
        found = quotient(fu, fv, u, v, **norms) * (1 - 8 * torch.finfo(u.dtype).eps)
        return (found - quotient(error, torch.zeros_like(error), u, v, **norms)).nan_to_num(-1.0, posinf=-1.0)


def _refine(model: Model, search: PairSet, u: Tensor, v: Tensor, ends: _Ends, budget: Budget) -> Lower:
    """Shrink the finalists' distances and evaluate in float64, where the model can."""
    try:
        exact = _double(model)
        return _finish(exact, search, u.double(), v.double(), ends, budget)
    except RuntimeError:  # what torch raises for a copy it cannot make, and for operands of different types
        return _finish(model, search, u.to(search.u), v.to(search.u), ends, budget)


def _double(model: Model) -> Model:
    if not isinstance(model, nn.Module):
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying what torch.export returns
        return copy.deepcopy(model).double()


@torch.no_grad()
def _finish(model: Model, search: PairSet, u: Tensor, v: Tensor, ends: _Ends, budget: Budget) -> Lower:
    values = ends.quotients(model, u, v)
    top = values.topk(min(_FINALISTS, len(values))).indices
    some = search.domain.project(search.pool[:256].to(u.dtype))  # float32 may lie outside by its rounding
    finalists = PairSet(some, size=len(top), domain=search.domain, renew=0, distances=_DISTANCES[1])
    finalists.u, finalists.v = u[top].clone(), v[top].clone()
    steps = _REFINEMENTS if u.dtype == torch.float64 else 0
    _, near_u, near_v = _climb(finalists, model, steps, ends.norm_in, ends.norm_out, budget)
    values = torch.cat([values, ends.quotients(model, near_u, near_v)])
    u, v = torch.cat([u, near_u]), torch.cat([v, near_v])
    if ends.enclosure is not None:
        few = _best_by_distance(values, distance(u - v))
        sure = ends.enclosed(u[few], v[few])
        if bool(sure.max() >= _VOUCHED * values.max()):
            u, v, values = u[few], v[few], sure
    winner = values.argmax()
    return Lower(max(0.0, float(values[winner])), (u[winner].double(), v[winner].double()))


def _best_by_distance(values: Tensor, distances: Tensor) -> Tensor:
    """The best pair of each order of magnitude of distance: the nearer, the larger the share of rounding."""
    decades = torch.log10(distances.clamp_min(1e-300)).floor()
    return torch.stack([torch.where(decades == d, values, -2.0).argmax() for d in sorted(set(decades.tolist()))])
