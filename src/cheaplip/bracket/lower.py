"""The lower end: a multi-start search for the pair of inputs with the largest quotient, re-evaluated in float64."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.domain import Box
from cheaplip.modes import Model
from cheaplip.pairs import PairSet
from cheaplip.quotient import Norm

__all__ = ["Lower", "largest_quotient"]


class Lower(NamedTuple):
    r"""A lower bound of Lip(f) and the pair that attains it.

    Attributes:
        value: the quotient of ``witness``, computed in float64; in the inputs' own type for a model that cannot be
            copied to float64 (a function that holds float32 tensors).
        witness: two inputs, each (\*input), float64.
    """

    value: float
    witness: tuple[Tensor, Tensor]


def largest_quotient(
    model: Model,
    x: Tensor,
    *,
    domain: Box | None = None,
    starts: PairSet | None = None,
    size: int = 512,
    steps: int = 100,
    norm_in: Norm = 2,
    norm_out: Norm = 2,
    generator: torch.Generator | None = None,
) -> Lower:
    r"""Search for the largest quotient: ``size`` pairs climb from the data while steps and distances shrink.

    The result is a lower bound of Lip(f): true, however short the search. The model's modes and gradients stay as
    they were.

    Args:
        model: one tensor in, one tensor out.
        x: inputs to start from, (B, \*input).
        domain: where inputs live. None: all of space.
        starts: further pairs to start from, such as those of training.
        size: number of pairs that start from ``x``.
        steps: climbs, each one forward and one backward pass over all pairs.
        norm_in, norm_out: as in :func:`cheaplip.quotient.quotient`.
        generator: randomness of the starts. None: a new one with seed 0.

    Returns:
        The largest quotient found and its pair.

    Example:
        >>> import torch
        >>> scale = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.eye_(scale.weight)
        >>> round(largest_quotient(scale, torch.rand(10, 2), size=4, steps=10).value, 6)
        1.0
    """
    search = PairSet(x, size=size, domain=domain, step="power", renew=0, distances=_DISTANCES[0], generator=generator)
    if starts is not None:
        search.u, search.v = torch.cat([search.u, starts.u]), torch.cat([search.v, starts.v])
        search.age = torch.cat([search.age, starts.age])
    best, u, v = _climb(search, model, steps, norm_in, norm_out)
    top = best.topk(min(_FINALISTS, len(best))).indices
    return _refine(model, search, u[top], v[top], norm_in, norm_out)


_DISTANCES = ((0.002, 0.1, 0.05), (1e-6, 1e-4, 1e-4))  # of the search, and of the finalists in float64
_STEP_SIZES = (0.03, 0.0005)  # first and last, in units of the data's scale
_FINALISTS = 16
_REFINEMENTS = 20


def _climb(search: PairSet, model: Model, steps: int, norm_in: Norm, norm_out: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Climb with shrinking steps; returns each pair's best quotient and where it was."""
    u, v = search.u.clone(), search.v.clone()
    best = torch.full((len(u),), -1.0, dtype=u.dtype, device=u.device)
    first, last = _STEP_SIZES
    for step in range(steps + 1):
        search.step_size = first * (last / first) ** (step / max(steps, 1))
        before_u, before_v = search.u.clone(), search.v.clone()
        quotients = search.climb_(model, norm_in=norm_in, norm_out=norm_out).to(u)
        better = (quotients > best).reshape(-1, *[1] * (u.dim() - 1))
        u, v = torch.where(better, before_u, u), torch.where(better, before_v, v)
        best = torch.maximum(best, quotients)
    return best, u, v


def _refine(model: Model, search: PairSet, u: Tensor, v: Tensor, norm_in: Norm, norm_out: Norm) -> Lower:
    """Shrink the finalists' distances and evaluate in float64, where the model can."""
    try:
        exact = copy.deepcopy(model).double() if isinstance(model, nn.Module) else model
        return _finish(exact, search, u.double(), v.double(), norm_in, norm_out)
    except RuntimeError:  # what torch raises for a copy it cannot make, and for operands of different types
        return _finish(model, search, u, v, norm_in, norm_out)


def _finish(model: Model, search: PairSet, u: Tensor, v: Tensor, norm_in: Norm, norm_out: Norm) -> Lower:
    some = search.pool[:256].to(u.dtype)
    finalists = PairSet(some, size=len(u), domain=search.domain, renew=0, distances=_DISTANCES[1])
    finalists.u, finalists.v = u.clone(), v.clone()
    wide = finalists.quotients(model, norm_in=norm_in, norm_out=norm_out)
    best, near_u, near_v = _climb(finalists, model, _REFINEMENTS if u.dtype == torch.float64 else 0, norm_in, norm_out)
    values = torch.cat([wide.detach(), best])
    winner = values.argmax()
    witness = torch.cat([u, near_u])[winner].double(), torch.cat([v, near_v])[winner].double()
    return Lower(float(values[winner]), witness)
