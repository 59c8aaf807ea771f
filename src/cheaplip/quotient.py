"""Norms and difference quotients.

Every quotient of the package is computed here: no other file divides an output distance by an input distance.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "TINY",
    "Norm",
    "at_least_float32",
    "check_norm",
    "column",
    "distance",
    "exact_quotient",
    "inverse_distance",
    "quotient",
    "quotient_and_slope",
    "slope",
]

Norm = float | Callable[[Tensor], Tensor]
"""1, 2, ``inf``, or a callable from differences (B, \\*shape) to norms (B,)."""

TINY = 1e-30
"""Smaller lengths are raised to this one before something is divided by them, so that 0/0 becomes 0."""

_ORDERS = (1.0, 2.0, math.inf)


def check_norm(norm: Norm, name: str) -> Norm:
    """Return ``norm`` if it is one that :func:`distance` knows; raise otherwise.

    Raises:
        ValueError: ``norm`` is neither 1, 2, ``inf`` nor a callable.
    """
    if callable(norm):
        return norm
    if isinstance(norm, bool) or not isinstance(norm, (int, float)) or float(norm) not in _ORDERS:
        raise ValueError(
            f"{name}: expected 1, 2, inf or a callable from differences (B, *shape) to norms (B,), got {norm!r}"
        )
    return float(norm)


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32 or float64, or if complex in complex64 or complex128; lower precision is raised."""
    if x.is_complex():
        return x.to(torch.complex64) if x.dtype == torch.complex32 else x
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def distance(difference: Tensor, norm: Norm = 2, *, keepdim: bool = False) -> Tensor:
    """Norm of each element of a batch, over all its other dimensions; of complex numbers, the magnitudes count.

    Args:
        difference: (B, *shape), real or complex.
        norm: 1, 2, ``inf``, or a callable from (B, *shape) to (B,).
        keepdim: keep the other dimensions, with size 1, so that the result broadcasts against ``difference``.

    Returns:
        (B,), or (B, 1, …, 1) with ``keepdim``; non-negative.

    Raises:
        ValueError: a callable norm returns another shape than (B,).
    """
    if callable(norm):
        norms = _callable_norm(norm, difference)
        return column(norms, difference) if keepdim else norms
    if difference.dim() == 1:
        return difference.abs()
    inner = tuple(range(1, difference.dim()))
    lengths: Tensor = torch.linalg.vector_norm(difference, ord=norm, dim=inner, keepdim=keepdim)
    return lengths


def _callable_norm(norm: Callable[[Tensor], Tensor], difference: Tensor) -> Tensor:
    """A callable norm of each difference, (B,). It never sees a difference of 0: its gradient there may be NaN."""
    moved = (difference != 0).reshape(len(difference), -1).any(dim=1)
    norms = norm(torch.where(column(moved, difference), difference, 1))
    if norms.shape != difference.shape[:1]:
        raise ValueError(
            f"a norm must map {tuple(difference.shape)} to ({difference.shape[0]},), got {tuple(norms.shape)}"
        )
    return torch.where(moved, norms, 0)


def slope(difference: Tensor, norm: Norm = 2) -> Tensor:
    """Gradient of :func:`distance` at each difference, (B, *shape); 0 where the difference is 0."""
    if norm == 2:
        return difference / distance(difference, keepdim=True).clamp_min(TINY)
    if norm == 1:
        return difference.sgn()
    if norm == math.inf:
        sizes = difference.abs()
        peaks = difference.sgn() * (sizes == sizes.amax(dim=tuple(range(1, sizes.dim())), keepdim=True))
        return peaks / distance(peaks, 1, keepdim=True).clamp_min(1)
    value, pull = torch.func.vjp(lambda at: distance(at, norm), difference)  # type: ignore[misc]
    gradient: Tensor = pull(torch.ones_like(value))[0]
    return gradient


def quotient(fu: Tensor, fv: Tensor, u: Tensor, v: Tensor, *, norm_in: Norm = 2, norm_out: Norm = 2) -> Tensor:
    r"""Difference quotients :math:`\|f(u)-f(v)\| / \|u-v\|`, one per pair.

    Computed in at least float32 and outside autocast. Where u = v the quotient is 0, with gradient 0.

    Args:
        fu, fv: outputs, (B, *output).
        u, v: the inputs they belong to, (B, *input).
        norm_in, norm_out: 1, 2, ``inf``, or a callable from (B, *shape) to (B,).

    Returns:
        (B,), in the widest of float32 and the arguments' types.

    Reference:
        Bungert et al. 2021, eq. (5).

    Example:
        >>> import torch
        >>> u, v = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> quotient(2 * u, 2 * v, u, v)
        tensor([2.])
    """
    with torch.autocast(u.device.type, enabled=False):
        rise = distance(at_least_float32(fu) - at_least_float32(fv), norm_out)
        return rise * inverse_distance(u, v, norm_in)


def exact_quotient(fu: Tensor, fv: Tensor, u: Tensor, v: Tensor, *, norm_in: Norm = 2, norm_out: Norm = 2) -> Tensor:
    r"""Compute :func:`quotient` with differences whose squares, or which themselves, overflow or underflow.

    It takes some passes more over its arguments, and has no gradient.

    Args:
        fu, fv, u, v, norm_in, norm_out: as in :func:`quotient`.

    Returns:
        (B,), in the widest of float32 and the arguments' types; 0 where u = v.
    """
    (rise, rise_unit), (run, run_unit) = _length(fu, fv, norm_out), _length(u, v, norm_in)
    return torch.where(run > 0, rise / torch.where(run > 0, run, 1) * (rise_unit / run_unit), 0.0)


def _length(x: Tensor, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return ‖x − y‖ as a product of two factors, (B,) each."""
    x, y = at_least_float32(x.detach()), at_least_float32(y.detach())
    if callable(norm):
        return distance(x - y, norm), torch.ones(len(x), dtype=x.dtype, device=x.device)
    inner = tuple(range(1, x.dim()))
    huge = torch.finfo(x.dtype).max / 4
    peak = torch.maximum(x.abs(), y.abs())
    half = torch.where((peak.amax(dim=inner) if inner else peak) > huge, 0.5, 1.0).to(peak)
    difference = x * column(half, x) - y * column(half, x)
    size = difference.abs().amax(dim=inner) if inner else difference.abs()
    size = torch.where(size > 0, size, 1)
    return distance(difference / column(size, difference), norm) / half, size


def quotient_and_slope(fu: Tensor, fv: Tensor, per_distance: Tensor, *, norm_out: Norm = 2) -> tuple[Tensor, Tensor]:
    """Compute :func:`quotient` and its gradient with respect to ``fu``; the one with respect to ``fv`` is its opposite.

    Args:
        fu, fv: outputs, (B, *output).
        per_distance: :func:`inverse_distance` of the inputs, (B,).
        norm_out: as in :func:`quotient`.

    Returns:
        The quotients, (B,), and their gradients, (B, *output).
    """
    difference = at_least_float32(fu) - at_least_float32(fv)
    rise = distance(difference, norm_out)
    # slope() would compute the Euclidean norm once more
    unit = difference / column(rise.clamp_min(TINY), difference) if norm_out == 2 else slope(difference, norm_out)
    return rise * per_distance, unit * column(per_distance, difference)


def inverse_distance(u: Tensor, v: Tensor, norm: Norm = 2) -> Tensor:
    """One over the distance of each pair, (B,); 0 where u = v."""
    run = distance(at_least_float32(u) - at_least_float32(v), norm)
    return run.sign() / run.clamp_min(torch.finfo(run.dtype).tiny)


def column(per_input: Tensor, like: Tensor) -> Tensor:
    """Reshape one number an input, (B,), to (B, 1, …, 1), which broadcasts against ``like`` (B, *shape)."""
    return per_input.reshape(-1, *[1] * (like.dim() - 1))
