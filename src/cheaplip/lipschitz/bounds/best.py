"""The best upper bound of a chain: every bound that applies, and the smallest of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Ball, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.cuts import ENTRIES, Part, fits, parts
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.lipschitz.bounds.products import Norms, norm_product, without_constant
from cheaplip.lipschitz.bounds.ranges import slope_ranges
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Elementwise, Nonnegative
from cheaplip.lipschitz.rounding import EPS, UP

__all__ = ["BOUNDS", "Upper", "pair_bounds", "upper_bound"]

BOUNDS = ("exact", "lipsdp", "closed-form", "absolute", "norms")
"""Names of the upper bounds.

exact: every region of a small piecewise linear network; lipsdp: optimised multipliers; closed-form: multipliers from
one formula; absolute: products of absolute values (norms 1 and inf); norms: products of norms. Parts of a model that
lipsdp, closed-form or absolute cannot treat are bounded by their norms."""

_NEURONS, _NEURONS_ON_A_LINE = 12, 100  # of a network whose regions are enumerated unasked; with one input
_REGIONS, _MOST_REGIONS = 400, 20_000  # to enumerate: unasked, and asked


class Upper(NamedTuple):
    """An upper bound of Lip(f).

    Attributes:
        value: the bound; inf where nothing is proved.
        method: the name of the bound; "none" with inf.
        reason: why nothing is proved; otherwise empty.
    """

    value: float
    method: str
    reason: str = ""


@dataclass(frozen=True)
class _PreparedPart:
    """A part of a chain, with what its bounds are computed from.

    Attributes:
        chain: the part.
        product: its product of norms.
        dense: its weights and slopes; None where it cannot be written out.
        slack: how much its Lipschitz constant may differ from that of ``dense``, for the rounding of merged matrices:
            an entry of A B is wrong by n ε (|A| |B|) at most, and ‖|A| |B|‖₂ ≤ n ‖A‖₂ ‖B‖₂.
    """

    chain: Chain
    product: float
    dense: tuple[list[Tensor], list[tuple[Tensor, Tensor]]] | None
    slack: float


def upper_bound(
    chain: Chain,
    norm: float,
    domain: Domain | None = None,
    method: str | None = None,
    *,
    seconds: float = 20.0,
) -> Upper:
    """Compute the smallest of the bounds that apply, or the one asked for.

    Args:
        chain: the model.
        norm: 1, 2 or inf.
        domain: where inputs live. None: all of space.
        method: one of ``BOUNDS``. None: all that apply.
        seconds: for the optimisation of multipliers.

    Raises:
        ValueError: the method does not exist in this norm.
    """
    known = ("exact", "lipsdp", "closed-form", "norms") if norm == 2 else ("absolute", "norms")
    if method is not None and method not in known:
        raise ValueError(f"method: expected one of {', '.join(known)} in norm {norm:g}, got {method!r}")
    if method == "exact" or (method is None and norm == 2 and _is_tiny(chain)):
        exact = _exact(chain, domain, _REGIONS if method is None else _MOST_REGIONS)
        if method == "exact" or exact.value < math.inf:
            return exact
    prepared = _prepared_parts(chain, norm, domain)
    if math.prod(part.product for part in prepared) == math.inf:
        unknown = without_constant(chain, norm)
        return Upper(math.inf, "none", f"no Lipschitz constant in norm {norm:g} is known for layer {unknown}")
    optimised = max(1, sum(part.dense is not None and len(part.dense[1]) > 0 for part in prepared))
    found = [
        Upper(math.prod(_part_bound(part, norm, name, seconds / optimised) for part in prepared) * UP, name)
        for name in (known if method is None else (method,))
        if name != "exact" and (name == "norms" or any(part.dense is not None for part in prepared))
        if method is not None or name != "closed-form"  # lipsdp starts there and is never worse
    ]
    if not found:
        return Upper(math.inf, "none", f"no part of the model can be bounded by {method!r}: use method='norms'")
    return min(found, key=lambda upper: upper.value)


def _is_tiny(chain: Chain) -> bool:
    neurons = sum(math.prod(link.shape) for link in chain.links if isinstance(link.operation, Elementwise))
    return neurons <= (_NEURONS_ON_A_LINE if math.prod(chain.shape) == 1 else _NEURONS)


def _exact(chain: Chain, domain: Domain | None, regions: int) -> Upper:
    if isinstance(domain, Ball):
        return Upper(math.inf, "none", "the exact constant is known on boxes: expected a Box or no domain, got a Ball")
    try:
        return Upper(exact_constant(chain, domain, limit=regions).upper * UP, "exact")
    except (UnsupportedLayerError, ValueError, ImportError) as error:
        return Upper(math.inf, "none", str(error))


def pair_bounds(chain: Chain, domain: Domain | None = None, *, seconds: float = 20.0) -> Tensor:
    """Bound Lip(f_i − f_j) for every pair of outputs, 2 → 2.

    The bound of each pair is that of the last part, for the pair, times the Lipschitz constant of what comes before.
    Where the last part cannot be written out, Lip(f_i − f_j) ≤ √2 Lip(f).

    Args:
        chain: the model, with outputs (C,).
        domain: where inputs live. None: all of space.
        seconds: for the optimisation of multipliers.

    Returns:
        (C, C) float64, with zeros on the diagonal.
    """
    *body, last = _prepared_parts(chain, 2, domain)
    names = ("lipsdp", "norms")
    before = math.prod(min(_part_bound(part, 2, name, seconds / 2) for name in names) for part in body)
    count = math.prod(chain.out_shape)
    apart = 1 - torch.eye(count, dtype=torch.float64, device=chain.device)
    whole = math.sqrt(2) * before * min(_part_bound(last, 2, name, seconds / 2) for name in names)
    if last.dense is None:
        return apart * (whole * UP)
    pairs = before * (lipsdp.pair_bounds(*last.dense, seconds=seconds / 2) + math.sqrt(2) * last.slack)
    return apart * torch.minimum(pairs.nan_to_num(math.inf), torch.full_like(pairs, whole)) * UP


def _prepared_parts(chain: Chain, norm: float, domain: Domain | None) -> list[_PreparedPart]:
    norms = Norms()
    ranges = slope_ranges(chain, domain, norms=norms)
    return [_prepared(part, norm, norms) for part in parts(chain, ranges, fits)]


def _prepared(part: Part, norm: float, norms: Norms) -> _PreparedPart:
    chain, ranges, written = part
    product = norm_product(chain, norm, ranges, norms=norms)
    affine = sum(not isinstance(link.operation, Elementwise) for link in chain.links)
    if not written or affine == 0:
        return _PreparedPart(chain, product, None, 0.0)
    try:
        with torch.no_grad():
            weights, slopes = chain.dense(ranges, limit=ENTRIES)
    except UnsupportedLayerError:  # too large once merged
        return _PreparedPart(chain, product, None, 0.0)
    size = max(max(weight.shape) for weight in weights)
    moves = sum(isinstance(link.operation, Nonnegative) for link in chain.links)
    merged = max(0, affine - len(weights)) if moves < affine else 0
    loose = norm_product(chain, norm, norms=norms)
    return _PreparedPart(chain, product, (weights, slopes), 4 * EPS * (merged * size**2 + len(weights) * size) * loose)


def _part_bound(part: _PreparedPart, norm: float, method: str, seconds: float) -> float:
    if part.dense is None or method == "norms":
        return part.product
    weights, slopes = part.dense
    if method == "absolute":
        return _absolute(weights, slopes, norm) + part.slack
    if method == "lipsdp":
        multipliers = lipsdp.optimise(weights, slopes, seconds=seconds)
    else:
        multipliers = lipsdp.closed_form(weights, slopes)
    return lipsdp.certify(weights, slopes, multipliers).value + part.slack


def _absolute(weights: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]], norm: float) -> float:
    """Compute ‖|W_L| S_{L−1} … S_1 |W_1|‖ in norm inf (row sums) or 1 (column sums), S the largest slopes in size."""
    steepest = [torch.maximum(low.abs(), high.abs()) for low, high in slopes]
    if norm == 1:
        weights, steepest = [weight.T for weight in reversed(weights)], steepest[::-1]
    sums = weights[0].abs().sum(dim=1)
    for weight, steep in zip(weights[1:], steepest, strict=True):
        sums = weight.abs() @ (steep * sums)
    return float(sums.max()) * UP
