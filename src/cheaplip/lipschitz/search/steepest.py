"""Points where a model is steepest: a population competes for the Jacobian's spectral norm."""

import math
import warnings
from functools import partial

import torch
from torch import Tensor

from cheaplip.lipschitz.search.budget import Budget
from cheaplip.lipschitz.search.space import SearchSpace
from cheaplip.lipschitz.search.switching import FEW, Switches, nearest_switch
from cheaplip.model import Model, call_on_copy
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import column, distance

__all__ = ["steepest_points"]

_POINTS = 1024
_KEPT = 16
_CORNERS = 6  # most activations that a move makes switch at once
_POWER = 3  # power iterations for a new point; its direction starts from its parent's
_SHORTEST = 1e-30  # stands in for the length 0 in a divisor; float32 holds it


@torch.no_grad()
def steepest_points(
    model: Model,
    x: Tensor,
    d: Tensor,
    space: SearchSpace,
    rounds: int,
    budget: Budget,
    switches: Switches | None = None,
) -> tuple[Tensor, Tensor] | None:
    r"""Search for points with a large ‖J(x)‖₂ by differential evolution; each point carries its direction along.

    Args:
        model: one tensor in, one tensor out.
        x: where to start, (B, \*input); up to 1024 are used.
        d: directions for the first points, (k, \*input).
        space: where to search.
        rounds: how often every point proposes a move.
        budget: of time.
        switches: the values that vanish where an activation switches, if they are known.

    Returns:
        The best points and their directions of unit length, each (k, \*input); None for a model that cannot be
        differentiated in forward mode.
    """
    x = x[:_POINTS]
    directions = torch.cat([d, space.normal(x)])[: len(x)]
    if rounds < 1 or budget.left() <= 0:
        return None
    with evaluation_mode(model), torch.autocast(x.device.type, enabled=False):
        try:
            value, directions = _power(model, x, _unit(directions))
        except (RuntimeError, NotImplementedError):  # what torch raises where forward derivatives do not exist
            return None
        for _ in range(rounds):
            y = _proposals(x, directions, value, space)
            if switches is not None:
                y = _with_corners(y, x, switches, space)
            y = space.domain.project(y)
            slope, turned = _power(model, y, directions)
            better = slope > value
            value = torch.where(better, slope, value)
            mask = column(better, x)
            x, directions = torch.where(mask, y, x), torch.where(mask, turned, directions)
            if not budget.spend():
                break
    top = value.topk(min(_KEPT, len(value))).indices
    return x[top], directions[top]


def _proposals(x: Tensor, d: Tensor, value: Tensor, space: SearchSpace) -> Tensor:
    """Move each point in one of seven ways, drawn at random.

    By noise of some size, along its direction, by the difference of two others, to near one of the best, towards or
    through the origin, to a new place, or to a new place or another point in some of its entries only.
    """
    count = len(x)
    own = distance(x).reshape(-1, *[1] * (x.dim() - 1))
    reach = torch.where(space.uniform(count, x) < 0.5, own, space.scale.to(x))
    size = 3 * reach * 10 ** (-4 * space.uniform(count, x))
    noise = size * _unit(space.normal(x))
    along = size * d * torch.sign(space.uniform(count, x) - 0.5)
    others = [x[space.indices(count, x, count)] for _ in range(2)]
    crossed = space.uniform(count, x) * (others[0] - others[1])
    leaders = x[value.topk(min(_KEPT, count)).indices]
    near_best = leaders[space.indices(count, x, len(leaders))] - x + noise
    shrunk = x * (2 * space.uniform(count, x) - 1)
    fresh = space.scale.to(x) * 10 ** (2 - 4 * space.uniform(count, x)) * space.normal(x) - x
    single = torch.where(space.uniform(count, x) < 0.5, fresh, others[0] - x)
    mixed = torch.where(space.normal(x) > 0, single, 0)
    move = torch.stack([noise, along, crossed, near_best, shrunk, fresh, mixed])
    return x + move[space.indices(count, x, len(move)), torch.arange(count, device=x.device)]


def _with_corners(y: Tensor, x: Tensor, switches: Switches, space: SearchSpace) -> Tensor:
    """Replace some proposals by points near where activations switch.

    With few inputs, half of the proposals, each near where several activations switch at once, most often as many as
    make a corner; with many inputs, an eighth, each near where one activation switches.
    """
    few = math.prod(x.shape[1:]) <= FEW
    stride = min(2 if few else 8, len(x))
    turn = slice(space.integer(stride), None, stride)
    some = x[turn]
    values = switches(some)
    most = min(math.prod(x.shape[1:]), values.shape[1], _CORNERS) if few else 1
    corners = min(most, 1 + space.integer(2 * most))
    move = nearest_switch(switches, some, _near(values, corners, space))
    size = column(distance(move), x) * 10 ** (1 - 6 * space.uniform(len(some), x))
    y[turn] = some + move + size * _unit(space.normal(some))
    return y


def _near(values: Tensor, count: int, space: SearchSpace) -> Tensor:
    """Draw indices (B, count) of different entries in each row, those nearer to 0 more likely.

    One is the nearer of two; more are drawn in proportion to 1/|value|, as the first arrivals of exponential waits.
    """
    if count == 1:
        drawn = space.indices(2 * len(values), values, values.shape[1]).reshape(2, -1, 1)
        near = values.gather(1, drawn[0]).abs() < values.gather(1, drawn[1]).abs()
        return torch.where(near, drawn[0], drawn[1])
    return (space.exponential(values) * values.abs()).topk(count, largest=False).indices


def _power(model: Model, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Return ‖J d‖ and d after some iterations d ← JᵀJ d / ‖JᵀJ d‖ at each point; −1 where it is not finite."""
    for _ in range(_POWER):
        rise = _forward(model, x, d)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (pull,) = torch.autograd.grad(call_on_copy(model, at), at, rise)
        steep = column(distance(pull) > 0, x)
        d = torch.where(steep, _unit(pull), d)
    return distance(_forward(model, x, d)).nan_to_num(-1.0, posinf=-1.0), d.nan_to_num(0.0)


def _forward(model: Model, x: Tensor, d: Tensor) -> Tensor:
    """Return J(x) d."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own: its first call compiles with torch.jit
        found: tuple[Tensor, Tensor] = torch.func.jvp(partial(call_on_copy, model), (x,), (d,))  # type: ignore[assignment]
    return found[1]


def _unit(x: Tensor) -> Tensor:
    """Scale each point to length 1."""
    return x / column(distance(x).clamp_min(_SHORTEST), x)
