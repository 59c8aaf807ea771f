"""The best upper bound of a chain: every bound that applies, and the smallest of them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Ball, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.cuts import ENTRIES, WIDTH, Part, fits, parts
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.lipschitz.bounds.fourier.bound import FourierBound
from cheaplip.lipschitz.bounds.fourier.plan import convolution_of
from cheaplip.lipschitz.bounds.products import Norms, norm_product, without_constant, writing_error
from cheaplip.lipschitz.bounds.published.combettes_pesquet import combettes_pesquet
from cheaplip.lipschitz.bounds.published.seqlip import seqlip
from cheaplip.lipschitz.bounds.published.zou import BesselNorms
from cheaplip.lipschitz.bounds.ranges import slope_ranges
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.rounding import LEAST, UNDERFLOW, UP, product_up

__all__ = ["BOUNDS", "Upper", "pair_bounds", "upper_bound"]

_PUBLISHED = ("autolip", "zou", "seqlip", "combettes-pesquet")  # asked for by name alone
_BY_NORMS = ("norms", "autolip", "zou")

BOUNDS = ("exact", "lipsdp", "fourier", "closed-form", "absolute", "norms", *_PUBLISHED)
"""Names of the upper bounds.

exact: every region of a small piecewise linear network; lipsdp: optimised multipliers, one for each neuron; fourier:
the same for convolutional networks of any size, with one for each channel; closed-form: multipliers from one formula;
absolute: products of absolute values (norms 1 and inf); norms: products of norms. Parts of a model that lipsdp,
closed-form or absolute cannot treat are bounded by their norms, as are single layers with fourier.

Those that others have published hold everywhere, whatever the domain, and are tried only if they are asked for:
autolip: the product of norms; zou: the same with Bessel bounds of convolutions; seqlip: two layers at a time;
combettes-pesquet: norms of products of layers, averaged over all ways to cut the network."""

_NEURONS, _NEURONS_ON_A_LINE = 12, 100  # of a network whose regions are enumerated unasked; with one input
_WIDEST, _AMPLE = 3600, 12.0  # entries of a value that is written out as neurons, given so many seconds
_WIDE = 600  # from which on a convolution's output is bounded in Fourier space unasked
_ELIMINATIONS = 15  # that the multipliers of all neurons need at least, to be better than those of channels
_SHARE = 0.4  # of the time, for the multipliers of channels where those of all neurons start from them
_AMPLE_NEWTON = 4  # times the estimate for Newton's method, which may well need more
_MOST = 0.8  # the same where only some parts, such as dense layers at the end, have multipliers of neurons
_TOO_LARGE = "the bound is above the largest float64: scale the model's weights down"
_REGIONS, _MOST_REGIONS = 400, 20_000  # to enumerate: unasked, and asked


class Upper(NamedTuple):
    """An upper bound of Lip(f).

    Attributes:
        value: the bound; inf where nothing is proved.
        method: the name of the bound; "none" with inf.
        reason: why nothing is proved, or why a better method did not apply, wholly or in part; may be empty.
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
        slack: how much its Lipschitz constant may differ from that of ``dense``, for the rounding of merged matrices;
            see :func:`cheaplip.lipschitz.bounds.products.writing_error`.
        start: multipliers to start from, where some are known.
    """

    chain: Chain
    product: float
    dense: tuple[list[Tensor], list[tuple[Tensor, Tensor]]] | None
    slack: float
    start: list[Tensor] | None = None


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
        seconds: for the enumeration of regions and the optimisation of multipliers, about.

    Raises:
        ValueError: the method does not exist in this norm.
    """
    deadline = time.monotonic() + seconds
    known = ("exact", "fourier", "lipsdp", "closed-form", "norms") if norm == 2 else ("absolute", "norms")
    allowed = (*known, *(_PUBLISHED if norm == 2 else ("autolip",)))
    if method is not None and method not in allowed:
        raise ValueError(f"method: expected one of {', '.join(allowed)} in norm {norm:g}, got {method!r}")
    missed: list[str] = []
    if method == "exact" or (method is None and norm == 2 and _is_tiny(chain)):
        exact = _exact(chain, domain, _REGIONS if method is None else _MOST_REGIONS, seconds)
        if method == "exact" or exact.value < math.inf:
            return exact
        missed.append(f"exact: {exact.reason}")
    norms = BesselNorms() if method == "zou" else Norms()
    ranges = slope_ranges(chain, None if method in _PUBLISHED else domain, norms=norms)
    small = partial(fits, width=_WIDEST if seconds >= _AMPLE else WIDTH)
    prepared = [_prepared(part, norm, norms) for part in parts(chain, ranges, small)]
    if product_up(*(part.product for part in prepared)) == math.inf:
        unknown = without_constant(chain, norm, ranges)
        reason = f"no Lipschitz constant in norm {norm:g} is known for layer {unknown}" if unknown else _TOO_LARGE
        return Upper(math.inf, "none", reason)
    optimised = max(1, sum(part.dense is not None and len(part.dense[1]) > 0 for part in prepared))
    found = []
    if method == "fourier" or (method is None and norm == 2 and _needs_fourier(chain, prepared, seconds)):
        fourier = FourierBound(chain, ranges)
        left = max(0.0, deadline - time.monotonic())
        unroll = method is None and len(prepared) == 1 and _is_quick(prepared[0], (1 - _SHARE) * left)
        alone = method == "fourier" or not any(part.dense is not None and part.dense[1] for part in prepared)
        share = 1.0 if alone else _SHARE if unroll else _MOST
        value, choices = fourier.optimise(seconds=share * left)
        if choices or value < math.inf:
            found.append(Upper(value, "fourier"))
        else:
            missed.append(f"fourier: it needs about {fourier.shortest_time():.0f} s, got {left:.2g} s")
        if unroll and choices and (dense := prepared[0].dense) is not None:
            start = lipsdp.from_joint(dense[0], fourier.unrolled(choices, dense[1]))
            prepared = [replace(prepared[0], start=start)]
    for name in known if method is None else (method,):
        if name in ("exact", "fourier"):
            continue
        if method is None and name == "closed-form":  # lipsdp starts there and is never worse
            continue
        if name in _BY_NORMS or any(part.dense is not None for part in prepared):
            left = max(0.0, deadline - time.monotonic()) / optimised
            bounds = [_part_bound(part, norm, name, left) for part in prepared]
            missed += [f"{name}: {bound.reason}" for bound in bounds if bound.reason]
            if name in _BY_NORMS or not all(bound.by_norms for bound in bounds):
                found.append(Upper(product_up(*(bound.value for bound in bounds), UP), name))
    reason = "; ".join(missed)
    if not found:
        reason = reason or f"no part of the model can be bounded by {method!r}"
        return Upper(math.inf, "none", f"{reason}: use method='norms'")
    best = min(found, key=lambda upper: upper.value)
    return best._replace(reason=reason) if best.value < math.inf else Upper(math.inf, "none", reason or _TOO_LARGE)


def _is_tiny(chain: Chain) -> bool:
    neurons = sum(math.prod(link.shape) for link in chain.links if isinstance(link.operation, Elementwise))
    return neurons <= (_NEURONS_ON_A_LINE if math.prod(chain.shape) == 1 else _NEURONS)


def _has_large_convolutions(chain: Chain) -> bool:
    return any(convolution_of(link) is not None and math.prod(link.shape) > _WIDE for link in chain.links)


def _needs_fourier(chain: Chain, prepared: Sequence[_PreparedPart], seconds: float) -> bool:
    return _has_large_convolutions(chain) or any(_is_hard(part, seconds) for part in prepared)


def _is_hard(part: _PreparedPart, seconds: float) -> bool:
    """Return whether descent on multipliers of neurons would stop early: at the border, where those of |x| are best."""
    if part.dense is None or _AMPLE_NEWTON * lipsdp.newton_time(*part.dense) <= seconds:
        return False
    return any(bool((low == -high).any()) for low, high in part.dense[1])


def _is_quick(part: _PreparedPart, seconds: float) -> bool:
    """Return whether a part can be eliminated often enough in so many seconds."""
    return part.dense is not None and _ELIMINATIONS * lipsdp.elimination_time(part.dense[0]) <= seconds


def _exact(chain: Chain, domain: Domain | None, regions: int, seconds: float) -> Upper:
    if isinstance(domain, Ball):
        return Upper(math.inf, "none", "the exact constant is known on boxes: expected a Box or no domain, got a Ball")
    try:
        value = exact_constant(chain, domain, limit=regions, seconds=seconds).upper
    except (UnsupportedLayerError, ValueError, ImportError) as error:
        return Upper(math.inf, "none", str(error))
    return Upper(value, "exact") if value < math.inf else Upper(value, "none", _TOO_LARGE)


def pair_bounds(chain: Chain, domain: Domain | None = None, *, seconds: float = 20.0) -> Tensor:
    """Bound Lip(f_i − f_j) for every pair of outputs, 2 → 2.

    The bound of each pair is that of the last part, for the pair, times the Lipschitz constant of what comes before.
    Where the last part cannot be written out, Lip(f_i − f_j) ≤ √2 Lip(f). Of a network with large convolutions, the
    joint matrix of all outputs is another bound of all pairs at once.

    Args:
        chain: the model, with outputs (C,).
        domain: where inputs live. None: all of space.
        seconds: for the optimisation of multipliers.

    Returns:
        (C, C) float64, with zeros on the diagonal.
    """
    norms = Norms()
    ranges = slope_ranges(chain, domain, norms=norms)
    together = None
    if _has_large_convolutions(chain):
        together = FourierBound(chain, ranges).pairs(seconds=seconds / 2)
        seconds /= 2
    *body, last = [_prepared(part, 2, norms) for part in parts(chain, ranges, fits)]
    share = seconds / 2 / (1 + len(body))
    before = product_up(*(_smaller_bound(part, share) for part in body))
    whole = product_up(math.sqrt(2) * UP, before, _smaller_bound(last, share))
    count = math.prod(chain.out_shape)
    pairs = torch.full((count, count), whole, dtype=torch.float64, device=chain.device)
    if last.dense is not None and whole < math.inf:
        own = lipsdp.pair_bounds(*last.dense, seconds=seconds / 2).to(pairs) + math.sqrt(2) * last.slack
        pairs = torch.minimum(before * own.nan_to_num(math.inf) * UP + LEAST, pairs)
    if together is not None:
        pairs = torch.minimum(pairs, together)
    return pairs.masked_fill(torch.eye(count, dtype=torch.bool, device=chain.device), 0.0)


def _smaller_bound(part: _PreparedPart, seconds: float) -> float:
    return min(_part_bound(part, 2, name, seconds).value for name in ("lipsdp", "norms"))


def _prepared(part: Part, norm: float, norms: Norms) -> _PreparedPart:
    chain, ranges, written = part
    product = norm_product(chain, norm, ranges, norms=norms)
    affine = sum(not isinstance(link.operation, Elementwise) for link in chain.links)
    if not written or affine == 0:
        return _PreparedPart(chain, product, None, 0.0)
    try:
        with torch.no_grad():
            weights, slopes = chain.dense(ranges, limit=ENTRIES)
        weights = [weight.detach() for weight in weights]
    except UnsupportedLayerError:  # too large once merged
        return _PreparedPart(chain, product, None, 0.0)
    slack = writing_error(chain, len(weights), norm, ranges, norms=norms)
    return _PreparedPart(chain, product, (weights, slopes), slack)


class _PartBound(NamedTuple):
    """A bound of a part; by its norms where the method asked for does not apply, with the reason."""

    value: float
    reason: str = ""
    by_norms: bool = False


def _part_bound(part: _PreparedPart, norm: float, method: str, seconds: float) -> _PartBound:
    """Bound a part by a method; by its norms, with the reason, where the method does not apply."""
    if part.dense is None or method in _BY_NORMS:
        affine = [link.path for link in part.chain.links if not isinstance(link.operation, Elementwise)]
        reason = f"only the norms are known of layer {', '.join(map(repr, dict.fromkeys(affine)))}" if affine else ""
        return _PartBound(part.product, "" if method in _BY_NORMS else reason, by_norms=True)
    weights, slopes = part.dense
    needed = 0.0 if part.start is not None else lipsdp.shortest_time(weights)
    if method != "absolute" and slopes and needed > 1 + seconds:
        return _PartBound(part.product, f"it needs about {needed:.0f} s, got {seconds:.2g} s", by_norms=True)
    if method == "absolute":
        value, reason = _absolute(weights, slopes, norm), ""
    elif method == "seqlip":
        value, reason = seqlip(weights, slopes, seconds=seconds)
    elif method == "combettes-pesquet":
        value, reason = combettes_pesquet(weights, slopes)
    else:
        compute = (
            partial(lipsdp.optimise, start=part.start, seconds=seconds) if method == "lipsdp" else lipsdp.closed_form
        )
        value, reason = lipsdp.certify(weights, slopes, compute(weights, slopes))
    value = (value + part.slack) * UP
    return _PartBound(value if value < math.inf else math.inf, reason)  # also for NaN


def _absolute(weights: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]], norm: float) -> float:
    """Compute ‖|W_L| S_{L−1} … S_1 |W_1|‖ in norm inf (row sums) or 1 (column sums), S the largest slopes in size."""
    steepest = [torch.maximum(low.abs(), high.abs()) for low, high in slopes]
    if norm == 1:
        weights, steepest = [weight.T for weight in reversed(weights)], steepest[::-1]
    sums = weights[0].abs().sum(dim=1)
    for weight, steep in zip(weights[1:], steepest, strict=True):
        sums = weight.abs() @ (steep * sums)
    return float(sums.max()) * UP + UNDERFLOW
