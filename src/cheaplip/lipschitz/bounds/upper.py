"""The upper end: several sound bounds of a chain, and the best of them."""

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
from cheaplip.lipschitz.bounds.propagation import Norms, norm_product, slope_ranges, without_constant
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Elementwise, Nonnegative

__all__ = ["METHODS", "Upper", "pair_bounds", "upper_bound"]

METHODS = ("exact", "lipsdp", "closed-form", "absolute", "norms")
"""exact: every region of a small piecewise linear network; lipsdp: optimised multipliers; closed-form: multipliers at
once; absolute: products of absolute values (norms 1 and inf); norms: products of norms. Parts of a model that lipsdp,
closed-form or absolute do not know are bounded by their norms."""

_EPS = torch.finfo(torch.float64).eps
_NEURONS, _NEURONS_ON_A_LINE = 12, 100  # of a network whose regions are enumerated unasked; with one input
_REGIONS, _MOST_REGIONS = 400, 20_000  # to enumerate: unasked, and asked


class Upper(NamedTuple):
    """An upper bound of Lip(f).

    Attributes:
        value: the bound; inf where nothing is proved.
        method: what proved it; "none" with inf.
        reason: why nothing is proved; otherwise empty.
    """

    value: float
    method: str
    reason: str = ""


@dataclass(frozen=True)
class _Run:
    """A part of a chain: f is the composition of its runs.

    Attributes:
        chain, ranges: the part.
        norm: in which ``product`` and ``slack`` hold.
        product: its product of norms.
        dense: its weights and slopes; None where it has operations without them, or would be too large.
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
    """The smallest of the bounds that apply, or the one asked for.

    Args:
        chain: the model.
        norm: 1, 2 or inf.
        domain: where inputs live. None: all of space.
        method: one of ``METHODS``. None: all that apply.
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
    runs = _runs(chain, norm, domain)
    if math.prod(run.product for run in runs) == math.inf:
        unknown = without_constant(chain, norm)
        return Upper(math.inf, "none", f"no Lipschitz constant in norm {norm:g} is known for layer {unknown}")
    written = max(1, sum(run.dense is not None and len(run.dense[1]) > 0 for run in runs))
    found = [
        Upper(_rounded(math.prod(_run_bound(run, norm, name, seconds / written) for run in runs)), name)
        for name in (known if method is None else (method,))
        if name != "exact" and (name == "norms" or any(run.dense is not None for run in runs))
        if method is not None or name != "closed-form"  # where lipsdp starts
    ]
    if not found:
        return Upper(math.inf, "none", f"no part of the model can be bounded by {method!r}: use method='norms'")
    return min(found, key=lambda upper: upper.value)


def _is_tiny(chain: Chain) -> bool:
    neurons = sum(math.prod(step.shape) for step in chain.steps if isinstance(step.operation, Elementwise))
    return neurons <= (_NEURONS_ON_A_LINE if math.prod(chain.shape) == 1 else _NEURONS)


def _exact(chain: Chain, domain: Domain | None, regions: int) -> Upper:
    if isinstance(domain, Ball):
        return Upper(math.inf, "none", "the exact constant is known on boxes: expected a Box or no domain, got a Ball")
    try:
        return Upper(_rounded(exact_constant(chain, domain, limit=regions).upper), "exact")
    except (UnsupportedLayerError, ValueError, ImportError) as error:
        return Upper(math.inf, "none", str(error))


def pair_bounds(chain: Chain, domain: Domain | None = None, *, seconds: float = 20.0) -> Tensor:
    """Upper bounds of Lip(f_i − f_j) for every pair of outputs, (C, C) float64, with zeros on the diagonal.

    The last run bounds the pairs; what comes before it, its Lipschitz constant. Where the last run cannot be written
    out, |f_i − f_j| ≤ √2 ‖f‖.
    """
    *body, last = _runs(chain, 2, domain)
    names = ("lipsdp", "norms")
    before = math.prod(min(_run_bound(run, 2, name, seconds / 2) for name in names) for run in body)
    count = math.prod(chain.out_shape)
    apart = 1 - torch.eye(count, dtype=torch.float64, device=chain.device)
    whole = math.sqrt(2) * before * min(_run_bound(last, 2, name, seconds / 2) for name in names)
    if last.dense is None:
        return apart * _rounded(whole)
    pairs = before * (lipsdp.pair_bounds(*last.dense, seconds=seconds / 2) + math.sqrt(2) * last.slack)
    return apart * torch.minimum(pairs.nan_to_num(math.inf), torch.full_like(pairs, whole)) * (1 + 1e-12)


def _runs(chain: Chain, norm: float, domain: Domain | None) -> list[_Run]:
    norms = Norms()
    return [_run(part, norm, norms) for part in parts(chain, slope_ranges(chain, domain, norms=norms), fits)]


def _run(part: Part, norm: float, norms: Norms) -> _Run:
    chain, ranges, written = part
    product = norm_product(chain, norm, ranges, norms=norms)
    affine = sum(not isinstance(step.operation, Elementwise) for step in chain.steps)
    if not written or affine == 0:
        return _Run(chain, product, None, 0.0)
    try:
        with torch.no_grad():
            weights, slopes = chain.dense(ranges, limit=ENTRIES)
    except UnsupportedLayerError:  # too large once merged
        return _Run(chain, product, None, 0.0)
    size = max(max(weight.shape) for weight in weights)
    moves = sum(isinstance(step.operation, Nonnegative) for step in chain.steps)
    merged = max(0, affine - len(weights)) if moves < affine else 0
    loose = norm_product(chain, norm, norms=norms)
    return _Run(chain, product, (weights, slopes), 4 * _EPS * (merged * size**2 + len(weights) * size) * loose)


def _run_bound(run: _Run, norm: float, method: str, seconds: float) -> float:
    if run.dense is None or method == "norms":
        return run.product
    weights, slopes = run.dense
    if method == "absolute":
        return _absolute(weights, slopes, norm) + run.slack
    if method == "lipsdp":
        multipliers = lipsdp.optimise(weights, slopes, seconds=seconds)
    else:
        multipliers = lipsdp.closed_form(weights, slopes)
    return lipsdp.certify(weights, slopes, multipliers).value + run.slack


def _absolute(weights: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]], norm: float) -> float:
    """‖|W_L| S_{L−1} … S_1 |W_1|‖ in norm inf (row sums) or 1 (column sums), S the largest slopes in size."""
    steepest = [torch.maximum(low.abs(), high.abs()) for low, high in slopes]
    if norm == 1:
        weights, steepest = [weight.T for weight in reversed(weights)], steepest[::-1]
    sums = weights[0].abs().sum(dim=1)
    for weight, steep in zip(weights[1:], steepest, strict=True):
        sums = weight.abs() @ (steep * sums)
    return float(sums.max()) * (1 + 1e-12)


def _rounded(value: float) -> float:
    return value * (1 + 1e-12)
