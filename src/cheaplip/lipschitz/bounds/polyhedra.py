"""Polyhedra of inputs, decided in exact arithmetic: a linear program in float64 proposes, whole numbers decide.

A polyhedron has an interior if one point is strictly inside, and none if some of its constraints a·x ≤ b add up, with
weights of 0 or more, to 0·x ≤ b with b ≤ 0 (Farkas' lemma). Both are checked with Python's integers, so that no
rounding, however large or small the numbers are, can make a region vanish.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

__all__ = ["Constraint", "Point", "Polyhedron", "check_solver", "restricted"]

Constraint = tuple[Any, int]
"""a and b of a·x ≤ b: an array (n,) of whole numbers, and a whole number."""

Point = tuple[Any, int]
"""An input as an array (n,) of whole numbers over a common denominator."""

_SUPPORT = (
    1e-9  # weight, relative to the largest, from which a constraint takes part in a proof that there is no interior
)
_ENTRIES = 20_000  # inputs times constraints, up to which weights are computed exactly


@dataclass(frozen=True)
class Polyhedron:
    """A polyhedron of inputs.

    Attributes:
        low, high: sides of the box that it lies in, for each input; None: no bound.
        constraints: what else holds in it.
        center: a point strictly inside. None: none was found, and it may have no interior.
    """

    low: tuple[Fraction | None, ...]
    high: tuple[Fraction | None, ...]
    constraints: tuple[Constraint, ...]
    center: Point | None

    @staticmethod
    def box(low: Sequence[float], high: Sequence[float]) -> "Polyhedron":
        """Make the box with these sides, some of them infinite."""
        sides = [tuple(Fraction(s) if math.isfinite(s) else None for s in side) for side in (low, high)]
        return Polyhedron(sides[0], sides[1], (), _common([_middle(a, b) for a, b in zip(*sides, strict=True)]))


def check_solver() -> None:
    """Import what solves linear programs.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise ImportError("the exact constant needs scipy: pip install 'cheaplip[bounds]'") from error


def restricted(region: Polyhedron, constraints: Sequence[Constraint], deadline: float) -> Polyhedron | None:
    """Add constraints; None if the result certainly has no interior.

    Args:
        region: where to start from.
        constraints: to add, none with a = 0.
        deadline: on the clock of ``time.monotonic()``, for the linear program.
    """
    smaller = replace(region, constraints=(*region.constraints, *constraints))
    if region.center is not None and all(_inside(constraint, region.center) for constraint in constraints):
        return smaller
    if len(region.low) == 1:
        return _restricted_line(smaller)
    center, weights = _largest_ball(smaller, deadline)
    if center is not None and _is_interior(smaller, center):
        return replace(smaller, center=center)
    if weights and _has_no_interior(smaller, weights):
        return None
    return replace(smaller, center=None)


def _inside(constraint: Constraint, point: Point) -> bool:
    row, rhs = constraint
    x, denominator = point
    return bool(row @ x < rhs * denominator)


def _is_interior(region: Polyhedron, point: Point) -> bool:
    x, denominator = point
    sides = zip(region.low, x, region.high, strict=True)
    return all(
        (a is None or a * denominator < at) and (b is None or at < b * denominator) for a, at, b in sides
    ) and all(_inside(constraint, point) for constraint in region.constraints)


def _restricted_line(region: Polyhedron) -> Polyhedron | None:
    """Decide a region of one input."""
    (low,), (high,) = region.low, region.high
    for (factor,), rhs in region.constraints:
        end = Fraction(rhs, factor)
        if factor > 0:
            high = end if high is None else min(high, end)
        else:
            low = end if low is None else max(low, end)
    if low is not None and high is not None and low >= high:
        return None
    return replace(region, center=_common([_middle(low, high)]))


def _middle(low: Fraction | None, high: Fraction | None) -> Fraction:
    if low is None:
        return Fraction(0) if high is None else high - 1
    return low + 1 if high is None else (low + high) / 2


def _common(values: Sequence[Fraction]) -> Point:
    """Write numbers over a common denominator."""
    import numpy as np

    denominator = math.lcm(*(value.denominator for value in values))
    numerators = [value.numerator * (denominator // value.denominator) for value in values]
    return np.array(numerators, dtype=object), denominator


def _ratio(numerator: int, denominator: int) -> float:
    try:
        return numerator / denominator
    except OverflowError:
        return math.copysign(math.inf, numerator)


def _largest_ball(region: Polyhedron, deadline: float) -> tuple[Point | None, list[Fraction]]:
    """Propose the center of the largest ball inside, and weights of constraints that may prove that there is none.

    The weights are those of ``region.constraints``, then of the lower and of the upper sides that are finite; none
    where the linear program was not solved.
    """
    import numpy as np
    from scipy.optimize import linprog

    rows, ends, lengths = [], [], []
    for row, rhs in region.constraints:
        size = 1 << max(abs(int(a)).bit_length() for a in row)
        values = np.array([a / size for a in row], dtype=float)
        length = float(np.linalg.norm(values))
        rows.append(values / length)
        ends.append(_ratio(rhs, size) / length)
        lengths.append(Fraction(length) * size)
    n = len(region.low)
    eye = np.eye(n)
    for sign, sides in ((-1.0, region.low), (1.0, region.high)):
        for at, side in enumerate(sides):
            if side is not None:
                rows.append(sign * eye[at])
                ends.append(sign * _ratio(side.numerator, side.denominator))
                lengths.append(Fraction(1))
    finite = [abs(end) for end in ends if 0 < abs(end) < math.inf]
    unit = max(finite, default=1.0)
    matrix = np.column_stack([np.array(rows), np.ones(len(rows))])
    found = linprog(
        [0.0] * n + [-1.0],
        A_ub=matrix,
        b_ub=np.clip(np.array(ends) / unit, -1e18, 1e18),
        bounds=[(None, None)] * n + [(None, 1.0)],
        method="highs",
        options={
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
            "time_limit": max(0.05, deadline - time.monotonic()),
        },
    )
    if found.x is None or not np.isfinite(found.x).all():
        return None, []
    center = _common([Fraction(float(x)) * Fraction(unit) for x in found.x[:n]])
    marginals = getattr(found.ineqlin, "marginals", None)
    if marginals is None or not np.isfinite(marginals).all():
        return center, []
    floor = _SUPPORT * float(np.abs(marginals).max())
    weights = [Fraction(-float(y)) if -y > floor else Fraction(0) for y in marginals]
    return center, [weight / length for weight, length in zip(weights, lengths, strict=True)]


def _has_no_interior(region: Polyhedron, weights: Sequence[Fraction]) -> bool:
    """Prove that constraints contradict each other in the interior, with weights equal to the given ones or near."""
    import numpy as np

    count = len(region.constraints)
    chosen = [at for at in range(count) if weights[at]]
    if chosen and all(side is not None for side in (*region.low, *region.high)):
        total, _ = _common(weights[:count])
        normal = sum(total[at] * region.constraints[at][0] for at in chosen)
        rhs = sum(total[at] * region.constraints[at][1] for at in chosen)
        sides = [low if g > 0 else high for g, low, high in zip(normal, region.low, region.high, strict=True)]
        if sum(int(g) * side for g, side in zip(normal, sides, strict=True) if g and side is not None) >= rhs:
            return True  # even the smallest value in the box is too large
    rows = [region.constraints[at][0] for at in chosen]
    ends = [Fraction(region.constraints[at][1]) for at in chosen]
    at = count
    for sign, box in ((-1, region.low), (1, region.high)):
        for index, side in enumerate(box):
            if side is None:
                continue
            if weights[at]:
                rows.append(np.array([sign * (index == other) for other in range(len(box))], dtype=object))
                ends.append(sign * side)
            at += 1
    if not rows or len(rows) * len(region.low) > _ENTRIES:
        return False
    solution = _null_vector(np.array(rows, dtype=object))
    return solution is not None and sum(y * end for y, end in zip(solution, ends, strict=True)) <= 0


def _null_vector(rows: Any) -> list[Fraction] | None:
    """Find the weights y ≥ 0, not all 0, with yᵀ rows = 0; None if there are none, or more than one up to a factor."""
    count = len(rows)
    pivots: list[tuple[int, list[Fraction]]] = []  # the place of a leading 1, and the equation, reduced
    for column in rows.T:
        if len(pivots) == count:
            return None
        equation = [Fraction(int(a)) for a in column]
        for place, known in pivots:
            factor = equation[place]
            if factor:
                equation = [a - factor * b for a, b in zip(equation, known, strict=True)]
        if not any(equation):
            continue
        first = next(at for at, a in enumerate(equation) if a)
        equation = [a / equation[first] for a in equation]
        pivots = [
            (at, [a - known[first] * b for a, b in zip(known, equation, strict=True)] if known[first] else known)
            for at, known in pivots
        ]
        pivots.append((first, equation))
    if len(pivots) != count - 1:
        return None
    free = next(at for at in range(count) if at not in {place for place, _ in pivots})
    weights = [Fraction(0)] * count
    weights[free] = Fraction(1)
    for place, equation in pivots:
        weights[place] = -equation[free]
    return weights if min(weights) >= 0 else None
