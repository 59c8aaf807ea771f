"""The exact Lipschitz constant, 2 → 2, of small piecewise linear networks, by enumerating their affine regions.

Weights are whole numbers over a power of two, so values and Jacobians of the regions are computed without rounding, and
:mod:`cheaplip.lipschitz.bounds.polyhedra` decides exactly which regions there are. Only the norms are rounded, upwards.
"""

import math
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch

from cheaplip.domain import Box
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.polyhedra import Constraint, Polyhedron, check_solver, restricted
from cheaplip.lipschitz.bounds.whole_numbers import ExactMap, ExactValue, exact_maps
from cheaplip.lipschitz.reading.chain import Chain, Link
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.reading.operations.activations import Activation
from cheaplip.lipschitz.rounding import power_up
from cheaplip.lipschitz.spectral import matrix_norm

__all__ = ["Exact", "exact_constant"]


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


def exact_constant(chain: Chain, domain: Box | None = None, *, limit: int = 20_000, seconds: float = math.inf) -> Exact:
    """Enumerate the regions on which the network is affine, neuron by neuron.

    A linear program (for one input, two comparisons) decides whether a neuron reaches a piece of its activation
    inside the region so far: whether both have an interior in common.

    Args:
        chain: affine maps and piecewise linear activations.
        domain: where inputs live. None: all of space.
        limit: most regions to enumerate.
        seconds: most time to take, about.

    Raises:
        UnsupportedLayerError: a layer is not piecewise linear, or not known exactly; it is named.
        ValueError: there are more regions than ``limit``, or more than the time is enough for.
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
    if n > 1:
        check_solver()  # its first import takes a second
    deadline = time.monotonic() + seconds
    pieces = {at: _pieces(link) for at, link in enumerate(chain.links) if isinstance(link.operation, Elementwise)}
    maps = exact_maps(chain)
    todo = [_Branch(_walls(chain, domain), (ExactValue.identity(n),), ())]
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
        if time.monotonic() > deadline:
            raise ValueError(
                f"expected a network whose regions can be enumerated in {seconds:.3g} s, got {regions} by then: bound "
                "it by another method, or give it more seconds"
            )
        branch = _advanced(chain, maps, branch)
        at = len(branch.values) - 1
        if at < len(chain.links):
            todo.extend(_split(branch, pieces[at][len(branch.chosen)], chain.links[at], deadline))
            continue
        found, bound = _norms(branch.values[-1])
        regions += 1
        value = max(value, found) if branch.region.center is not None else value
        upper = max(upper, bound)
    return Exact(value, upper, regions)


@dataclass(frozen=True)
class _Branch:
    """A region, and the chain on it so far.

    Attributes:
        region: the inputs.
        values: the chain's values so far.
        chosen: the pieces of the first neurons of the next activation.
    """

    region: Polyhedron
    values: tuple[ExactValue, ...]
    chosen: tuple["_Piece", ...]


class _Piece(NamedTuple):
    """An activation between ``start`` and ``end``: slope · x + offset; an end that is None is infinite."""

    start: Fraction | None
    end: Fraction | None
    slope: Fraction
    offset: Fraction

    def holds(self, x: Fraction) -> bool:
        """Return whether x lies between the ends."""
        return (self.start is None or self.start <= x) and (self.end is None or x <= self.end)


def _pieces(link: Link) -> list[tuple[_Piece, ...]]:
    """Return the pieces of each neuron of an activation."""
    assert isinstance(link.operation, Elementwise)
    entries = link.operation.entries(link.shape)
    known = {id(activation): _pieces_of(activation, link) for activation in entries}
    return [known[id(activation)] for activation in entries]


def _pieces_of(activation: Activation, link: Link) -> tuple[_Piece, ...]:
    found = []
    for start, end, derivative in activation.pieces:
        if not (isinstance(derivative, partial) and derivative.func is torch.full_like):
            raise UnsupportedLayerError(
                f"layer {link.path!r} is not piecewise linear: expected affine maps and activations such as ReLU, "
                "leaky ReLU, abs or hardtanh for the exact constant"
            )
        slope = Fraction(float(derivative.keywords["fill_value"]))
        at = next((end for end in (start, end) if math.isfinite(end)), 0.0)
        here = Fraction(float(activation.function(torch.tensor(at, dtype=torch.float64))))
        ends = [Fraction(end) if math.isfinite(end) else None for end in (start, end)]
        found.append(_Piece(ends[0], ends[1], slope, here - slope * Fraction(at)))
    return tuple(found)


def _advanced(chain: Chain, maps: dict[int, ExactMap], branch: _Branch) -> _Branch:
    """Apply the affine operations that come next, and an activation whose pieces are all chosen."""
    values, chosen = branch.values, branch.chosen
    while len(values) <= len(chain.links):
        at = len(values) - 1
        link = chain.links[at]
        taken = [values[i] for i in link.arguments]
        if at in maps:
            result = maps[at](taken)
        elif len(chosen) < math.prod(link.shape):
            break
        else:
            result = taken[0].scaled([piece.slope for piece in chosen], [piece.offset for piece in chosen])
            chosen = ()
        values = (*values, result)
    return _Branch(branch.region, values, chosen)


def _split(branch: _Branch, pieces: tuple[_Piece, ...], link: Link, deadline: float) -> list[_Branch]:
    """Split the region into the parts on which the next neuron stays on one piece."""
    columns, denominator = branch.values[link.arguments[0]]
    offset, *row = columns[:, len(branch.chosen)]
    if not any(row):  # the neuron is constant there
        piece = next(piece for piece in pieces if piece.holds(Fraction(int(offset), denominator)))
        return [_Branch(branch.region, branch.values, (*branch.chosen, piece))]
    parts = []
    for piece in pieces:
        if piece.start is not None and piece.end is not None and piece.start >= piece.end:
            continue
        constraints = [
            _constraint(sign, columns[1:, len(branch.chosen)], int(offset), denominator, end)
            for sign, end in ((-1, piece.start), (1, piece.end))
            if end is not None
        ]
        region = restricted(branch.region, constraints, deadline) if constraints else branch.region
        if region is not None:
            parts.append(_Branch(region, branch.values, (*branch.chosen, piece)))
    return parts


def _constraint(sign: int, row: Any, offset: int, denominator: int, end: Fraction) -> Constraint:
    """Write sign · (row · x + offset) / denominator ≤ sign · end in whole numbers, as small as they can be."""
    factor = sign * end.denominator
    normal = row * factor
    rhs = sign * end.numerator * denominator - factor * offset
    common = math.gcd(*map(int, normal), rhs)
    return normal // common, rhs // common


def _norms(value: ExactValue) -> tuple[float, float]:
    """Return the spectral norm of a Jacobian, rounded, and an upper bound of it."""
    jacobian = value.columns[1:].reshape(len(value.columns) - 1, -1)  # outputs of any shape, scalars too
    bits = max(abs(int(number)).bit_length() for number in jacobian.flat)
    if bits == 0:
        return 0.0, 0.0
    # entries of at most 1 in size, each rounded by half an ulp, which the bound covers
    floats = torch.tensor([[int(number) / (1 << bits) for number in row] for row in jacobian], dtype=torch.float64)
    shift = bits - value.denominator.bit_length()
    scale = Fraction(1 << value.denominator.bit_length(), value.denominator)  # from 1 to 2
    bound = power_up(math.nextafter(float(matrix_norm(floats)) * math.nextafter(float(scale), 3.0), math.inf), shift)
    found = float(torch.linalg.matrix_norm(floats, 2)) * float(scale)
    return (math.ldexp(found, shift) if bound < math.inf else math.inf), bound


def _walls(chain: Chain, domain: Box | None) -> Polyhedron:
    """Return the domain as a polyhedron."""
    n = math.prod(chain.shape)
    if domain is None:
        return Polyhedron.box([-math.inf] * n, [math.inf] * n)
    if not isinstance(domain, Box):
        raise TypeError(f"domain: expected a Box or None for the exact constant, got {type(domain).__name__}")
    domain.check_shape(chain.shape)
    low, high = (
        bound.cpu().expand(chain.shape).flatten().tolist()
        for bound in domain.bounds(torch.device("cpu"), torch.float64)
    )
    return Polyhedron.box(low, high)
