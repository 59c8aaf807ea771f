"""The exact Lipschitz constant, 2 → 2, of small piecewise linear networks, by enumerating their affine regions."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.chain import Chain, Link
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.rounding import UP

__all__ = ["Exact", "exact_constant"]

_THIN = (
    1e-8  # radius of a region's largest ball, in units of the inputs, below which float64 cannot tell if it is empty
)


class Exact(NamedTuple):
    """The largest spectral norm of a Jacobian over all regions.

    Attributes:
        value: over the regions that certainly have an interior.
        upper: over these and the regions that may be empty, rounded upwards; almost always ``value`` but for rounding.
        regions: the number of regions.
    """

    value: float
    upper: float
    regions: int


def exact_constant(chain: Chain, domain: Box | None = None, *, limit: int = 20_000) -> Exact:
    """Enumerate the regions on which the network is affine, neuron by neuron.

    A linear program (for one input, two comparisons) decides whether a neuron reaches a piece of its activation
    inside the region so far: whether there is a ball in both.

    Args:
        chain: affine maps and piecewise linear activations.
        domain: where inputs live. None: all of space.
        limit: most regions to enumerate.

    Raises:
        UnsupportedLayerError: a layer is not piecewise linear; it is named.
        ValueError: there are more regions than ``limit``.
        ImportError: two inputs or more need scipy.

    Example:
        >>> from torch import nn
        >>> from cheaplip.lipschitz import read
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> for p, v in zip(net.parameters(), ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])):
        ...     p.data = torch.tensor(v)
        >>> round(exact_constant(read(net, (1,))).value, 9)  # |x|
        1.0
    """
    n = math.prod(chain.shape)
    pieces = {at: _pieces(link) for at, link in enumerate(chain.links) if isinstance(link.operation, Elementwise)}
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
        if at < len(chain.links):
            todo.extend(_split(branch, pieces[at], chain.links[at]))
            continue
        norm = float(torch.linalg.matrix_norm(branch.values[-1][1:].flatten(1), 2))
        regions += 1
        value = max(value, norm) if branch.region.certain else value
        upper = max(upper, norm * UP)
    return Exact(value, upper, regions)


@dataclass(frozen=True)
class _Region:
    """A polyhedron of inputs.

    Attributes:
        rows, rhs: it holds the x with rows·x ≤ rhs; the rows have norm 1.
        center: a point inside.
        certain: whether a ball around ``center`` certainly lies inside.
    """

    rows: Tensor
    rhs: Tensor
    center: Tensor
    certain: bool


@dataclass(frozen=True)
class _Branch:
    """A region, and the chain on it so far.

    Attributes:
        region: the inputs.
        values: the chain's values so far, each as (value at 0, columns of the Jacobian).
        chosen: the pieces of the first neurons of the next activation.
    """

    region: _Region
    values: tuple[Tensor, ...]
    chosen: tuple["_Piece", ...]


class _Piece(NamedTuple):
    """An activation between ``start`` and ``end``: slope · x + offset."""

    start: float
    end: float
    slope: float
    offset: float


def _pieces(link: Link) -> tuple[_Piece, ...]:
    assert isinstance(link.operation, Elementwise)
    found = []
    for start, end, derivative in link.operation.activation.pieces:
        if not (isinstance(derivative, partial) and derivative.func is torch.full_like):
            raise UnsupportedLayerError(
                f"layer {link.path!r} is not piecewise linear: expected affine maps and activations such as ReLU, "
                "leaky ReLU, abs or hardtanh for the exact constant"
            )
        slope = float(derivative.keywords["fill_value"])
        at = torch.tensor(start if math.isfinite(start) else end, dtype=torch.float64)
        at = at if math.isfinite(at) else torch.zeros_like(at)
        found.append(_Piece(start, end, slope, float(link.operation.activation.function(at) - slope * at)))
    return tuple(found)


def _advanced(chain: Chain, branch: _Branch) -> _Branch:
    """Apply the affine operations that come next, and an activation whose pieces are all chosen."""
    values, chosen = branch.values, branch.chosen
    while len(values) <= len(chain.links):
        link = chain.links[len(values) - 1]
        taken = [values[i] for i in link.arguments]
        if isinstance(link.operation, Elementwise):
            if len(chosen) < math.prod(link.shape):
                break
            slopes, offsets = torch.tensor([(p.slope, p.offset) for p in chosen], dtype=torch.float64).to(taken[0]).T
            result = taken[0] * slopes.reshape(link.shape)
            result[0] += offsets.reshape(link.shape)
            chosen = ()
        else:
            linear = getattr(link.operation, "linear", None)
            if linear is None:
                raise UnsupportedLayerError(
                    f"layer {link.path!r} ({type(link.operation).__name__}) is neither affine nor elementwise: "
                    "expected affine maps and piecewise linear activations for the exact constant"
                )
            result = torch.cat([link.operation(*(v[:1] for v in taken)), linear(*(v[1:] for v in taken))])
        values = (*values, result.detach())
    return _Branch(branch.region, values, chosen)


def _split(branch: _Branch, pieces: tuple[_Piece, ...], link: Link) -> list[_Branch]:
    """Split the region into the parts on which the next neuron stays on one piece."""
    column = branch.values[link.arguments[0]].flatten(1)[:, len(branch.chosen)].cpu()
    offset, row = float(column[0]), column[1:]
    norm = float(row.norm())
    if norm == 0:  # the neuron is constant there
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
    """Add constraints; None if the result is certainly empty."""
    room = float((rhs - rows @ region.center).min())
    smaller = _Region(torch.cat([region.rows, rows]), torch.cat([region.rhs, rhs]), region.center, region.certain)
    return smaller if region.certain and room > _THIN else _recentred(smaller)


def _recentred(region: _Region) -> _Region | None:
    """Move the center to that of the region's largest ball, of radius 1 at most; None if it is certainly empty."""
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
    """Return center and radius of the largest ball in a polyhedron; −inf if it is empty."""
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
    """Return the sides of the domain as constraints rows·x ≤ rhs."""
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
