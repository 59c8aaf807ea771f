"""Lip(f) itself, 2 → 2, of small piecewise linear networks: the steepest of the affine maps they are made of."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.graph import Step
from cheaplip.lipschitz.reading.operations import Elementwise

__all__ = ["Exact", "exact_constant"]

_THIN = 1e-8  # inner radius, in units of the inputs, below which float arithmetic cannot tell a region from none
_UP = 1 + 1e-12


class Exact(NamedTuple):
    """The largest spectral norm of a Jacobian.

    Attributes:
        value: over the regions that certainly have an interior.
        upper: over those and the ones too thin to tell; almost always equal to ``value``.
        regions: how many there are.
    """

    value: float
    upper: float
    regions: int


def exact_constant(chain: Chain, domain: Box | None = None, *, limit: int = 20_000) -> Exact:
    """Enumerate the regions on which the network is affine, neuron by neuron.

    A piece of a neuron is kept if a linear program (or, for one input, two comparisons) finds a ball inside the
    region so far.

    Args:
        chain: affine maps and piecewise linear activations.
        domain: restricts the inputs. None: all of space.
        limit: most regions to look at.

    Raises:
        UnsupportedLayerError: a layer is not piecewise linear; it is named.
        ValueError: there are more regions than ``limit``.
        ImportError: two inputs or more need scipy.

    Example:
        >>> from torch import nn
        >>> from cheaplip.lipschitz.reading.chain import read
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> for p, v in zip(net.parameters(), ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])):
        ...     p.data = torch.tensor(v)
        >>> round(exact_constant(read(net, (1,))).value, 9)  # |x|
        1.0
    """
    n = math.prod(chain.shape)
    pieces = {at: _pieces(step) for at, step in enumerate(chain.steps) if isinstance(step.operation, Elementwise)}
    rows, rhs = _walls(chain, domain)
    region = _recentred(_Region(rows, rhs, torch.zeros(n, dtype=torch.float64), True))
    if region is None:
        raise ValueError("the domain has no interior: expected a box with low < high")
    origin = torch.cat([torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)])
    todo = [_Branch(region, (origin.reshape(-1, *chain.shape).to(chain.device),), ())]
    value = upper = 0.0
    regions = visited = 0
    while todo:
        branch = todo.pop()
        visited += 1
        if visited > 4 * limit or regions > limit:
            raise ValueError(
                f"expected a network with at most {limit} regions on which it is affine, got more: bound it by "
                "another method, or raise the limit"
            )
        branch = _advanced(chain, branch)
        at = len(branch.values) - 1
        if at < len(chain.steps):
            todo.extend(_split(branch, pieces[at], chain.steps[at]))
            continue
        norm = float(torch.linalg.matrix_norm(branch.values[-1][1:].flatten(1), 2))
        regions += 1
        value = max(value, norm) if branch.region.certain else value
        upper = max(upper, norm * _UP)
    return Exact(value, upper, regions)


@dataclass(frozen=True)
class _Region:
    """The inputs x with rows·x ≤ rhs, rows of norm 1; a point inside; whether that has a ball around it."""

    rows: Tensor
    rhs: Tensor
    center: Tensor
    certain: bool


@dataclass(frozen=True)
class _Branch:
    """A region, the chain's values on it so far as (value at 0, columns of the Jacobian), the pieces of the next."""

    region: _Region
    values: tuple[Tensor, ...]
    chosen: tuple["_Piece", ...]


class _Piece(NamedTuple):
    start: float
    end: float
    slope: float
    offset: float


def _pieces(step: Step) -> tuple[_Piece, ...]:
    assert isinstance(step.operation, Elementwise)
    found = []
    for start, end, derivative in step.operation.activation.pieces:
        if not (isinstance(derivative, partial) and derivative.func is torch.full_like):
            raise UnsupportedLayerError(
                f"layer {step.path!r} is not piecewise linear: expected affine maps and activations such as ReLU, "
                "leaky ReLU, abs or hardtanh for the exact constant"
            )
        slope = float(derivative.keywords["fill_value"])
        at = torch.tensor(start if math.isfinite(start) else end, dtype=torch.float64)
        at = at if math.isfinite(at) else torch.zeros_like(at)
        found.append(_Piece(start, end, slope, float(step.operation.activation.function(at) - slope * at)))
    return tuple(found)


def _advanced(chain: Chain, branch: _Branch) -> _Branch:
    """Follow the affine steps, and the activation whose pieces are all chosen."""
    values, chosen = branch.values, branch.chosen
    while len(values) <= len(chain.steps):
        step = chain.steps[len(values) - 1]
        taken = [values[i] for i in step.arguments]
        if isinstance(step.operation, Elementwise):
            if len(chosen) < math.prod(step.shape):
                break
            slopes, offsets = torch.tensor([(p.slope, p.offset) for p in chosen], dtype=torch.float64).to(taken[0]).T
            result = taken[0] * slopes.reshape(step.shape)
            result[0] += offsets.reshape(step.shape)
            chosen = ()
        else:
            linear = getattr(step.operation, "linear", None)
            if linear is None:
                raise UnsupportedLayerError(
                    f"layer {step.path!r} ({type(step.operation).__name__}) is neither affine nor elementwise: "
                    "expected affine maps and piecewise linear activations for the exact constant"
                )
            result = torch.cat([step.operation(*(v[:1] for v in taken)), linear(*(v[1:] for v in taken))])
        values = (*values, result.detach())
    return _Branch(branch.region, values, chosen)


def _split(branch: _Branch, pieces: tuple[_Piece, ...], step: Step) -> list[_Branch]:
    """The parts of the region on which the next neuron keeps to one piece."""
    column = branch.values[step.arguments[0]].flatten(1)[:, len(branch.chosen)].cpu()
    offset, row = float(column[0]), column[1:]
    norm = float(row.norm())
    if norm == 0:  # constant: any piece, for the Jacobian; the right one, for the value
        piece = next(p for p in pieces if p.start <= offset <= p.end)
        return [_Branch(branch.region, branch.values, (*branch.chosen, piece))]
    parts = []
    for piece in pieces:
        ends = [(s, e) for s, e in ((-1.0, piece.start), (1.0, piece.end)) if math.isfinite(e)]
        region: _Region | None = branch.region
        if ends:
            rows = torch.stack([s * row / norm for s, _ in ends])
            rhs = torch.tensor([s * (e - offset) / norm for s, e in ends], dtype=torch.float64)
            region = _restricted(branch.region, rows, rhs)
        if region is not None:
            parts.append(_Branch(region, branch.values, (*branch.chosen, piece)))
    return parts


def _restricted(region: _Region, rows: Tensor, rhs: Tensor) -> _Region | None:
    room = float((rhs - rows @ region.center).min())
    smaller = _Region(torch.cat([region.rows, rows]), torch.cat([region.rhs, rhs]), region.center, region.certain)
    return smaller if region.certain and room > _THIN else _recentred(smaller)


def _recentred(region: _Region) -> _Region | None:
    """The region with the center of its largest ball, of radius 1 at most; None if it is certainly empty."""
    if not len(region.rows):
        return region
    if region.rows.shape[1] == 1:
        ahead = region.rows[:, 0] > 0
        high = float(region.rhs[ahead].min()) if bool(ahead.any()) else math.inf
        low = float(-region.rhs[~ahead].min()) if bool((~ahead).any()) else -math.inf
        radius = min((high - low) / 2, 1.0)
        middle = (low + high) / 2 if math.isfinite(high - low) else low + 1 if math.isfinite(low) else high - 1
        center = region.rows.new_tensor([middle])
    else:
        center, radius = _largest_ball(region.rows, region.rhs)
    return None if radius < -_THIN else _Region(region.rows, region.rhs, center, radius > _THIN)


def _largest_ball(rows: Tensor, rhs: Tensor) -> tuple[Tensor, float]:
    try:
        from scipy.optimize import linprog
    except ImportError as error:
        raise ImportError("the exact constant needs scipy: pip install 'cheaplip[bounds]'") from error
    n = rows.shape[1]
    found = linprog(
        [0.0] * n + [-1.0],
        A_ub=torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1).numpy(),
        b_ub=rhs.numpy(),
        bounds=[(None, None)] * n + [(-1.0, 1.0)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status == 2:  # infeasible
        return rows.new_zeros(n), -math.inf
    if found.status != 0:
        raise ArithmeticError(f"the linear program of a region was not solved: {found.message}")
    return torch.from_numpy(found.x[:n].copy()), float(found.x[n])


def _walls(chain: Chain, domain: Box | None) -> tuple[Tensor, Tensor]:
    n = math.prod(chain.shape)
    eye = torch.eye(n, dtype=torch.float64)
    if domain is None:
        return eye[:0], eye[0, :0]
    if not isinstance(domain, Box):
        raise TypeError(f"domain: expected a Box or None for the exact constant, got {type(domain).__name__}")
    domain.check_shape(chain.shape)
    low, high = (b.cpu().expand(chain.shape).flatten() for b in domain.bounds(torch.device("cpu"), torch.float64))
    rows, rhs = torch.cat([-eye, eye]), torch.cat([-low, high])
    finite = torch.isfinite(rhs)
    return rows[finite], rhs[finite]
