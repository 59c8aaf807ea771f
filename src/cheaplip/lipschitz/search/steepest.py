"""Points where a model is steepest: a population competes for the Jacobian's spectral norm."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cheaplip.lipschitz.search.switching import FEW, Switches, nearest_switch
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode
from cheaplip.pairs import PairSet
from cheaplip.quotient import distance

__all__ = ["Budget", "steepest_points"]

_POINTS = 1024
_KEPT = 16
_CORNERS = 6  # most activations that a move makes switch at once
_POWER = 3  # iterations for a new point; its direction starts from its parent's


@dataclass
class Budget:
    """Steps and seconds to spend, and whom to tell.

    Attributes:
        steps: in all.
        seconds: in all, from construction. None: no limit.
        progress: called with (steps done, steps in all).
    """

    steps: int
    seconds: float | None = None
    progress: Callable[[int, int], None] | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def spend(self) -> bool:
        """Count a step; whether there is time for more."""
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.steps), self.steps)
        return self.left() > 0

    def left(self) -> float:
        """Seconds."""
        return math.inf if self.seconds is None else self.started + self.seconds - time.monotonic()


@torch.no_grad()
def steepest_points(
    model: Model,
    x: Tensor,
    d: Tensor,
    search: PairSet,
    rounds: int,
    budget: Budget,
    switches: Switches | None = None,
) -> tuple[Tensor, Tensor] | None:
    r"""Differential evolution of points by ‖J(x)‖₂, its direction carried along.

    Args:
        model: one tensor in, one tensor out.
        x: where to start, (B, \*input); up to 1024 are used.
        d: directions for the first points, (k, \*input).
        search: knows domain, scale and generator.
        rounds: of proposals.
        budget: of time.
        switches: of the model's activations, where they are known.

    Returns:
        The best points and their directions of unit length, each (k, \*input); None for a model that cannot be
        differentiated forwards.
    """
    x = x[:_POINTS]
    directions = torch.cat([d, _noise(x, search)])[: len(x)]
    if rounds < 1 or budget.left() <= 0:
        return None
    with evaluation_mode(model), torch.autocast(x.device.type, enabled=False):
        try:
            value, directions = _power(model, x, _unit(directions))
        except (RuntimeError, NotImplementedError):  # what torch raises where forward derivatives do not exist
            return None
        for _ in range(rounds):
            y = _proposals(x, directions, value, search)
            if switches is not None:
                y = _with_corners(y, x, switches, search)
            y = search.domain.project(y)
            slope, turned = _power(model, y, directions)
            better = slope > value
            value = torch.where(better, slope, value)
            mask = _column(better, x)
            x, directions = torch.where(mask, y, x), torch.where(mask, turned, directions)
            if not budget.spend():
                break
    top = value.topk(min(_KEPT, len(value))).indices
    return x[top], directions[top]


def _proposals(x: Tensor, d: Tensor, value: Tensor, search: PairSet) -> Tensor:
    """Each point moved: by noise of some size, along its direction, by the difference of two others, to one of the
    best, from or through the origin, to a new place, or in some of its entries only."""
    count = len(x)
    own = distance(x).reshape(-1, *[1] * (x.dim() - 1))
    reach = torch.where(_uniform(count, x, search) < 0.5, own, search.scale.to(x))
    size = 3 * reach * 10 ** (-4 * _uniform(count, x, search))
    noise = size * _unit(_noise(x, search))
    along = size * d * torch.sign(_uniform(count, x, search) - 0.5)
    others = [x[_indices(count, x, search, count)] for _ in range(2)]
    crossed = _uniform(count, x, search) * (others[0] - others[1])
    leaders = x[value.topk(min(_KEPT, count)).indices]
    near_best = leaders[_indices(count, x, search, len(leaders))] - x + noise
    shrunk = x * (2 * _uniform(count, x, search) - 1)
    fresh = search.scale.to(x) * 10 ** (2 - 4 * _uniform(count, x, search)) * _noise(x, search) - x
    single = torch.where(_uniform(count, x, search) < 0.5, fresh, others[0] - x)
    mixed = torch.where(_noise(x, search) > 0, single, 0)  # some entries of another point
    move = torch.stack([noise, along, crossed, near_best, shrunk, fresh, mixed])
    return x + move[_indices(count, x, search, len(move)), torch.arange(count, device=x.device)]


def _with_corners(y: Tensor, x: Tensor, switches: Switches, search: PairSet) -> Tensor:
    """Half of the proposals replaced by points near where some activations switch, all of them at once, most often as
    many as make a corner; of many inputs, an eighth, and one activation for each."""
    few = math.prod(x.shape[1:]) <= FEW
    stride = min(2 if few else 8, len(x))
    turn = slice(_draw(stride, search), None, stride)
    some = x[turn]
    values = switches(some)
    most = min(math.prod(x.shape[1:]), values.shape[1], _CORNERS) if few else 1
    corners = min(most, 1 + _draw(2 * most, search))
    step = nearest_switch(switches, some, _near(values, corners, search))
    size = _column(distance(step), x) * 10 ** (1 - 6 * _uniform(len(some), x, search))
    y[turn] = some + step + size * _unit(_noise(some, search))
    return y


def _near(values: Tensor, count: int, search: PairSet) -> Tensor:
    """Indices (B, count) of different entries, the nearer to 0 the likelier: the nearer of two for one; for more, drawn
    in proportion to 1/|value|, as the first to arrive of exponential waits."""
    if count == 1:
        drawn = _indices(2 * len(values), values, search, values.shape[1]).reshape(2, -1, 1)
        near = values.gather(1, drawn[0]).abs() < values.gather(1, drawn[1]).abs()
        return torch.where(near, drawn[0], drawn[1])
    waits = torch.empty(values.shape, device=search.generator.device).exponential_(generator=search.generator)
    return (waits.to(values) * values.abs()).topk(count, largest=False).indices


def _draw(high: int, search: PairSet) -> int:
    return int(torch.randint(high, (1,), generator=search.generator, device=search.generator.device))


def _indices(count: int, like: Tensor, search: PairSet, high: int) -> Tensor:
    return (_uniform(count, like, search).flatten() * high).long().clamp_max(high - 1)


def _power(model: Model, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """‖J d‖ and d after some iterations d ← JᵀJ d / ‖JᵀJ d‖ at each point; -1 where it is not finite."""
    for _ in range(_POWER):
        rise = _forward(model, x, d)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (pull,) = torch.autograd.grad(model(at), at, rise)
        steep = _column(distance(pull) > 0, x)
        d = torch.where(steep, _unit(pull), d)
    return distance(_forward(model, x, d)).nan_to_num(-1.0, posinf=-1.0), d.nan_to_num(0.0)


def _forward(model: Model, x: Tensor, d: Tensor) -> Tensor:
    """J(x) d."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own: its first call compiles with torch.jit
        found: tuple[Tensor, Tensor] = torch.func.jvp(model, (x,), (d,))  # type: ignore[assignment]
    return found[1]


def _uniform(count: int, like: Tensor, search: PairSet) -> Tensor:
    device = search.generator.device
    drawn = torch.rand(count, generator=search.generator, device=device, dtype=like.dtype).to(like.device)
    return _column(drawn, like)


def _noise(like: Tensor, search: PairSet) -> Tensor:
    device = search.generator.device
    return torch.randn(like.shape, generator=search.generator, device=device, dtype=like.dtype).to(like.device)


def _unit(x: Tensor) -> Tensor:
    return x / _column(distance(x).clamp_min(1e-30), x)


def _column(per_point: Tensor, like: Tensor) -> Tensor:
    return per_point.reshape(-1, *[1] * (like.dim() - 1))
