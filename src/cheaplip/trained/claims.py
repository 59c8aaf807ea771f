"""The numbers of a model card, computed again from the weights and the data: both ends of the bracket, the figures."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.lipschitz.bounds.best import BOUNDS
from cheaplip.lipschitz.bounds.ranges import enclose
from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.quotient import quotient
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.card_form import UntrueCardError, number, plain, shown
from cheaplip.training.tasks import Certificate, task_of

__all__ = ["check_bracket", "check_certified", "check_figure", "check_method", "witnessed_quotient"]

_CLEAN = 1e-3  # difference that float32 on another machine may make, relative; for an accuracy, two inputs at most
_ROUNDING = 1e-9  # relative; of float64 on another machine
_PATIENCE = 16.0  # how many times its seconds the upper bound may take while it still becomes smaller
_EXACT = 1e-3  # relative; certified bounds are rounded up


def check_bracket(
    claimed: Mapping[str, Any],
    least: float,
    model: nn.Module,
    data: Data,
    shown_below: float,
    seconds: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[Bracket, float]:
    """Prove the bracket of a card again, and an upper end elsewhere that is at most as large.

    The upper end is searched for at least ``seconds``, then longer for as long as it becomes smaller, so that a card is
    not refused because it took more time.

    Args:
        claimed: the section of the card.
        least: the smaller of its upper end and that of ``metrics.json``.
        model, data, seconds, progress: as in :func:`cheaplip.trained.verify.verify_card`.
        shown_below: a lower end that is known, see :func:`witnessed_quotient`.

    Returns:
        A bracket with an upper end of at most ``least``, and the largest lower end that is known.

    Raises:
        UntrueCardError: it could not be proved.
    """
    b = bracket(model, data.domain, x=data.train.x, seconds=seconds, progress=progress)
    seen = max(b.lower, shown_below)
    below, above = number(claimed["lower"]), number(claimed["upper"])
    if claimed["norm"] != 2 or claimed["domain"] != repr(b.domain):
        raise UntrueCardError(
            f"no: the card is about norm {shown(claimed['norm'])} and the domain {plain(claimed['domain'])}, "
            f"expected norm 2 and {b.domain!r}"
        )
    for name, upper in (("the card", above), ("metrics.json", least)):
        if seen > upper:
            raise UntrueCardError(f"no: {name} says Lip(f) ≤ {upper:.6g}, two inputs have the quotient {seen:.6g}")
        b = _proved(b, upper, model, data, seconds)
        if not b.upper <= upper:
            raise UntrueCardError(
                f"no: {name} says Lip(f) ≤ {upper:.6g}, in {seconds:g} seconds and while it became smaller only "
                f"{b.upper:.6g} could be proved here: a large network may need a longer --seconds"
            )
    if not 0 <= below <= b.upper:
        raise UntrueCardError(f"no: the card says Lip(f) ≥ {below:.6g}, here Lip(f) ≤ {b.upper:.6g} could be proved")
    gap, claimed_gap = replace(b, lower=below, upper=above).gap, claimed["gap"]
    if not math.isclose(math.inf if claimed_gap is None else number(claimed_gap), gap):
        raise UntrueCardError(f"no: the card says gap {claimed_gap}, the quotient of its own ends is {gap:.6g}")
    if not below <= seen * (1 + _ROUNDING):
        raise UntrueCardError(
            f"no: the card says Lip(f) ≥ {below:.6g}, but the pair of witness.safetensors and a search of "
            f"{seconds:g} seconds have the quotient {seen:.6g}"
        )
    check_method(claimed["method"], above, b, model, data, seconds)
    return b, seen


def _proved(b: Bracket, upper: float, model: nn.Module, data: Data, seconds: float) -> Bracket:
    """Give the upper end more time, twice as much each time, until it is proved or no longer becomes smaller."""
    allowed = seconds
    while b.upper > upper and allowed < _PATIENCE * max(seconds, 1.0):
        allowed = max(2 * allowed, 0.25)
        again = bracket(model, data.domain, x=data.train.x, seconds=2 * allowed, steps=0)  # half for the upper end
        if not again.upper < b.upper * (1 - _EXACT / 10):
            return min(b, again, key=lambda some: some.upper)
        b = again
    return b


def check_method(method: object, above: float, b: Bracket, model: nn.Module, data: Data, seconds: float) -> None:
    """Check that a method proves a bound.

    Args:
        method: what is said to prove it.
        above: the bound.
        b: the bracket that was found.
        model, data, seconds: as in :func:`check_bracket`.

    Raises:
        UntrueCardError: there is no such method, or it does not.
    """
    if method == b.method:
        return
    if method not in BOUNDS:
        raise UntrueCardError(f"no: the card names the method {shown(method)}, expected one of {', '.join(BOUNDS)}")
    asked = None if method == "exact" else str(method)  # unasked, exact is tried where it takes little time
    try:
        longer = _PATIENCE * max(seconds, 1.0)
        found = bracket(model, data.domain, x=data.train.x, seconds=longer, steps=0, method=asked)
    except ValueError as error:
        raise UntrueCardError(f"no: the card names the method {shown(method)}: {error}") from error
    if found.upper > above or (asked is None and found.method != method):
        raise UntrueCardError(
            f"no: the card says Lip(f) ≤ {above:.6g} by the method {shown(method)}, which does not prove it; "
            f"{b.method!r} proves {b.upper:.6g}"
        )
    if method == "exact" and above > found.upper * (1 + _EXACT):
        raise UntrueCardError(
            f"no: the card says that {above:.6g} is exact, here the exact constant is {found.upper:.6g}"
        )


def witnessed_quotient(folder: RunFolder, model: nn.Module, data: Data) -> float:
    """Return the quotient of the pair in ``witness.safetensors``; 0 without the file, or if it holds no such pair."""
    if not (folder.path / "witness.safetensors").is_file():
        return 0.0
    try:
        pair = load_tensors(folder.read_bytes("witness.safetensors"))
    except SafetensorError:
        return 0.0
    chain = read(model, data.shape)
    ends = [pair[name].double().to(chain.device) for name in ("u", "v") if name in pair]
    if (
        len(ends) < 2
        or any(tuple(end.shape) != data.shape for end in ends)
        or not data.domain.contains(torch.stack(ends))
    ):
        return 0.0
    low, high = enclose(chain, torch.stack(ends))
    values = chain(torch.stack(ends))  # for networks so deep that the enclosure is too wide
    proved = _quotient(*((low + high) / 2), *ends) - _quotient((high - low).sum(dim=0), torch.zeros_like(low[0]), *ends)
    found = max(proved, _quotient(*values, *ends))
    return found if math.isfinite(found) else 0.0


def _quotient(fu: Tensor, fv: Tensor, u: Tensor, v: Tensor) -> float:
    with torch.no_grad():
        return float(quotient(fu[None], fv[None], u[None], v[None]))


def check_figure(name: str, claimed: object, found: float, inputs: int, *, error: bool) -> None:
    """Check a figure without perturbations: an accuracy, a fraction of the inputs, or an error.

    Raises:
        UntrueCardError: it differs by more than another machine's rounding.
    """
    value = number(claimed)
    near = abs(found - value) <= (_CLEAN * abs(found) if error else min(_CLEAN, 2 / inputs))
    whole = error or abs(value * inputs - round(value * inputs)) <= _ROUNDING * inputs
    if not (near and whole):
        raise UntrueCardError(f"no: {name} {value:.4f}, here it is {found:.4f}")


def check_certified(claimed: Mapping[str, Any], certificate: Certificate, data: Data) -> None:
    """Check the certified figures of a card against those that its bound proves.

    Raises:
        UntrueCardError: a figure is not proved, or is not the one that is proved.
    """
    task = task_of(data)
    for key, value in claimed.items():
        proved = certificate.figures[key]
        if not (math.isfinite(number(value)) and task.proves(proved, number(value))):
            raise UntrueCardError(
                f"no: the card says that {value:.4f} is certified at ε = {key}, here {proved:.4f} could be proved"
            )
        if not math.isclose(proved, value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            raise UntrueCardError(
                f"no: the card says that {value:.4f} is certified at ε = {key}, here it is {proved:.4f}"
            )
