"""What certificates need: the model that was bracketed, bounds for pairs of classes, checked inputs and labels."""

import math

import torch
from torch import Tensor, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.ranges import output_interval
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.rounding import above
from cheaplip.quotient import quotient

__all__ = [
    "bracketed_chain",
    "check_device",
    "check_epsilon",
    "check_form",
    "check_inputs",
    "check_labels",
    "class_bounds",
]

_SAME = 1e-2  # relative difference from which a witness's quotient is another model's; ``lower`` is rounded down


def bracketed_chain(model: nn.Module, b: Bracket) -> Chain:
    """Read a model, and check that it is the one that was bracketed.

    Raises:
        ValueError: the bracket has another norm than 2 or no finite upper end, or its witness has another quotient in
            this model.
    """
    if b.norm != 2:
        raise ValueError(f"bracket: expected one in norm 2, got norm {b.norm:g}: call bracket(model, ..., norm=2)")
    if not b.upper < math.inf:
        raise ValueError(f"nothing is certified, for the bracket has no finite upper bound: {b.reason}")
    u, v = b.witness
    try:
        chain = read(model, tuple(u.shape))
    except (UnsupportedLayerError, ValueError) as error:
        raise ValueError(f"bracket: expected one of this model, but the model cannot be read: {error}") from error
    low, high = output_interval(chain, torch.stack([u, v]).to(chain.device, torch.float64))
    fu, fv = ((low + high) / 2).unsqueeze(1)
    found = float(quotient(fu, fv, u.unsqueeze(0).to(fu), v.unsqueeze(0).to(fu)))
    if not abs(found - b.lower) <= _SAME * max(found, b.lower):
        raise ValueError(
            f"bracket: expected one of this model, got one whose witness has the quotient {b.lower:.6g}, but in this "
            f"model {found:.6g}: the weights have changed since, or it is another model; bracket it again"
        )
    return chain


def class_bounds(chain: Chain, b: Bracket, pairs: Tensor | None) -> Tensor:
    """Bound Lip(f_i − f_j) for every pair of logits: by √2 Lip(f), or by ``pairs`` where that is smaller.

    Args:
        chain: the model.
        b: of this model, 2 → 2.
        pairs: other bounds, (classes, classes), or None.

    Returns:
        (classes, classes) float64, on the model's device.

    Raises:
        ValueError: the outputs are not logits, or ``pairs`` are no such bounds.
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
    return torch.minimum(bounds, pairs.to(bounds))


def check_form(x: Tensor, b: Bracket) -> None:
    """Refuse what is not a batch of inputs of the bracketed shape."""
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


def check_labels(x: Tensor, y: Tensor, classes: int) -> None:
    """Refuse what is not a class for each input."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        raise TypeError(f"labels: expected integers, got {y.dtype if isinstance(y, Tensor) else type(y).__name__}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(x)} inputs, got shape {tuple(y.shape)}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(f"labels: expected 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")


def check_epsilon(epsilon: float) -> None:
    """Refuse what is not a radius."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon!r}")
