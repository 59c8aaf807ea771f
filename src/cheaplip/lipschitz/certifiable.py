"""What certificates need: the model that was bracketed, bounds for pairs of classes, checked inputs and labels."""

import math

import torch
from torch import Tensor, nn

from cheaplip.domain import Ball, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.labels import check_labels
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.fingerprint import Fingerprint, domain_digest
from cheaplip.lipschitz.pair_bounds import PairBounds
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.rounding import EPS, above

__all__ = [
    "bracketed_chain",
    "check_bracket",
    "check_device",
    "check_epsilon",
    "check_form",
    "check_inputs",
    "check_labels",
    "class_bounds",
]


def bracketed_chain(model: nn.Module, b: Bracket) -> Chain:
    """Read a model, and check that the bracket was proved for it.

    Raises:
        TypeError: ``b`` is no bracket.
        ValueError: the bracket has another norm than 2, no finite upper end or no fingerprint; it was proved for
            another model; or its domain or its upper end was changed.
    """
    check_bracket(b)
    if b.norm != 2:
        raise ValueError(f"bracket: expected one in norm 2, got norm {b.norm:g}: call bracket(model, ..., norm=2)")
    if not b.upper < math.inf:
        raise ValueError(f"nothing is certified, for the bracket has no finite upper bound: {b.reason}")
    proved = b.fingerprint
    if proved is None:
        raise ValueError("bracket: expected one that cheaplip.bracket made, got one without a fingerprint")
    try:
        chain = read(model, tuple(b.witness[0].shape))
    except (UnsupportedLayerError, ValueError) as error:
        raise ValueError(f"bracket: expected one of this model, but the model cannot be read: {error}") from error
    _check_model("bracket", proved, chain, "bracket it again")
    if proved.domain != domain_digest(b.domain):
        raise ValueError(
            f"bracket: expected the domain that it was proved for, got {b.domain!r}, which was put in afterwards: "
            "bracket the model on that domain"
        )
    if proved.norm != b.norm or not b.upper >= proved.upper:
        raise ValueError(
            f"bracket: expected the proved upper end, {proved.upper:.6g} in norm {proved.norm:g}, or a larger one, got "
            f"{b.upper:.6g} in norm {b.norm:g}: use the bracket as cheaplip.bracket returned it"
        )
    return chain


def class_bounds(chain: Chain, b: Bracket, pairs: Tensor | None) -> Tensor:
    """Bound Lip(f_i − f_j) for every pair of logits: by √2 Lip(f), or by ``pairs`` where that is smaller.

    Args:
        chain: the model.
        b: of this model, 2 → 2.
        pairs: other bounds, (classes, classes), from :func:`cheaplip.lipschitz.pairwise`, or None.

    Returns:
        (classes, classes) float64, on the model's device.

    Raises:
        ValueError: the outputs are not logits, or ``pairs`` are no such bounds, or those of another model or domain.
    """
    if len(chain.out_shape) != 1 or chain.out_shape[0] < 2:
        shape = ", ".join(map(str, chain.out_shape))
        raise ValueError(
            f"expected logits (B, classes) of two or more classes, got outputs (B, {shape}): for other outputs use "
            "cheaplip.certified_interval"
        )
    classes = chain.out_shape[0]
    bounds = torch.full((classes, classes), math.sqrt(2) * b.upper * above(8), dtype=torch.float64, device=chain.device)
    if pairs is None:
        return bounds
    if pairs.shape != bounds.shape or not bool((pairs >= 0).all()):
        raise ValueError(
            f"pairs: expected bounds of 0 or more, shape {tuple(bounds.shape)}, got shape {tuple(pairs.shape)} and "
            f"values from {float(pairs.min()):g}: take them from cheaplip.lipschitz.pairwise"
        )
    _check_pairs(pairs, chain, b)
    return torch.minimum(bounds, pairs.as_subclass(Tensor).to(bounds))


def _check_model(name: str, proved: Fingerprint, chain: Chain, remedy: str) -> None:
    """Refuse what was proved for another model."""
    if chain.digest is None or proved.model != chain.digest():
        raise ValueError(
            f"{name}: expected one of this model, got one of other weights or layers: the weights have changed since, "
            f"or it is another model; {remedy}"
        )


def _check_pairs(pairs: Tensor, chain: Chain, b: Bracket) -> None:
    """Refuse bounds of pairs that were proved for another model or do not hold in all of the bracket's domain."""
    again = "call cheaplip.lipschitz.pairwise(model, domain) again"
    if not isinstance(pairs, PairBounds):
        raise ValueError(f"pairs: expected what cheaplip.lipschitz.pairwise returned, got a plain tensor: {again}")
    _check_model("pairs", pairs.fingerprint, chain, again)
    if pairs.fingerprint.domain != domain_digest(pairs.domain) or not _covers(pairs.domain, b.domain):
        raise ValueError(
            f"pairs: expected bounds that hold in the bracket's domain, {b.domain!r}, got bounds for {pairs.domain!r}: "
            f"{again}"
        )
    if not bool((pairs >= pairs.proved.to(pairs.device)).all()):
        raise ValueError(f"pairs: expected bounds as they were proved, got smaller values: {again}")


def _covers(outer: Domain | None, inner: Domain | None) -> bool:
    """Return whether one domain certainly holds another."""
    if outer is None or outer.everywhere or domain_digest(outer) == domain_digest(inner):
        return True
    if inner is None or isinstance(outer, Ball):
        return False
    low, high = outer.bounds(torch.device("cpu"), torch.float64)
    if isinstance(inner, Ball):
        center = inner.center.detach().to("cpu", torch.float64)
        reach = inner.radius * above(4) + 4 * EPS * center.abs()
        bottom, top = center - reach, center + reach
    else:
        bottom, top = inner.bounds(torch.device("cpu"), torch.float64)
    return bool((bottom >= low).all() and (top <= high).all())


def check_bracket(b: object) -> None:
    """Refuse what is not a bracket, such as the constant alone: it does not say what it was proved for."""
    if not isinstance(b, Bracket):
        got = f"{b!r}" if isinstance(b, (int, float)) else type(b).__name__
        raise TypeError(f"bracket: expected what cheaplip.bracket(model, ...) returned, a Bracket, got {got}")


def check_form(x: Tensor, b: Bracket) -> None:
    """Refuse what is not a batch of inputs of the bracketed shape."""
    check_bracket(b)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: expected a tensor of floating-point inputs, got {got}: convert them with x.float()")
    shape = b.witness[0].shape
    if x.shape[1:] != shape or not len(x):
        raise ValueError(f"x: expected inputs (B, {', '.join(map(str, shape))}), got shape {tuple(x.shape)}")


def check_inputs(x: Tensor, b: Bracket) -> None:
    """Refuse what is not a batch of finite inputs in the bracket's domain."""
    check_form(x, b)
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite numbers, got NaN or infinity")
    if b.domain is not None and not b.domain.contains(x.double()):
        raise ValueError(
            f"x: expected inputs inside {b.domain!r}, the bracket's domain, got values from {float(x.min()):g} to "
            f"{float(x.max()):g}: the certificate does not hold there; bracket a domain that contains them"
        )


def check_device(x: Tensor, chain: Chain) -> None:
    """Refuse inputs on another device than the model's."""
    if x.device != chain.device:
        raise ValueError(f"x is on {x.device}, the model on {chain.device}: move one with .to(device)")


def check_epsilon(epsilon: float) -> None:
    """Refuse what is not a radius."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon!r}")
