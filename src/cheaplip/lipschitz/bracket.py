"""Both ends of Lip(f): a quotient found below, a bound proved above."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cheaplip.domain import Ball, Box, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.propagation import enclose
from cheaplip.lipschitz.bounds.upper import METHODS, Upper, pair_bounds, upper_bound
from cheaplip.lipschitz.reading.chain import Chain, check_chain_norm, read
from cheaplip.lipschitz.search.lower import check_budget, largest_quotient
from cheaplip.lipschitz.search.switching import switches
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode

__all__ = ["Bracket", "bracket", "pairwise"]

_SECONDS = 20.0  # for the multipliers, where no limit is given
_STARTS = 1024
_VALUES = 1 << 22  # activations of all pairs at once, about


@dataclass(frozen=True)
class Bracket:
    r"""lower ≤ Lip(f) ≤ upper.

    Attributes:
        lower: a quotient of the model, less what rounding can have added.
        witness: the two inputs it belongs to, each (\*input), float64.
        upper: a proved bound; inf where nothing could be proved.
        method: what proved ``upper``: one of ``METHODS``; "none" with inf.
        norm: of inputs and outputs.
        seconds: taken.
        reason: why ``upper`` is inf, or why a better method did not apply; may be empty.
        domain: the inputs that both ends are about. None: all of space.
    """

    lower: float
    witness: tuple[Tensor, Tensor]
    upper: float
    method: str
    norm: float
    seconds: float
    reason: str = ""
    domain: Domain | None = None

    @property
    def gap(self) -> float:
        """upper / lower: 1 when both ends meet."""
        if self.lower == 0:
            return 1.0 if self.upper == 0 else math.inf
        return self.upper / self.lower


def bracket(
    model: Model,
    domain: Domain | None = None,
    shape: tuple[int, ...] | None = None,
    norm: float = 2,
    *,
    x: Tensor | None = None,
    method: str | None = None,
    steps: int = 100,
    seconds: float | None = 30.0,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bracket:
    r"""Bracket the Lipschitz constant of a model, in evaluation mode: lower ≤ Lip(f) ≤ upper.

    Both ends are about the exact function that the model's weights define in real arithmetic. The upper end is rounded
    upwards, the lower one downwards: by interval arithmetic, or in networks too deep for it by an estimate.

    Args:
        model: one tensor in, one tensor out. A plain function gets no upper bound.
        domain: where inputs live; the upper bound is local to a bounded one, such as ``Ball(x, r)``. None:
            all of space.
        shape: of one input; may be left out where ``x`` or a ball tells.
        norm: of inputs and outputs: 2, 1 or inf.
        x: inputs that the search starts from, (B, \*shape). None: points of the domain.
        method: the upper bound to use. None: the best of all.
        steps: of the search for the lower end, see :func:`cheaplip.lipschitz.largest_quotient`.
        seconds: for both ends, about: up to half of them for the multipliers of the upper one, and at least half for
            the search. Norms and regions take what they take. None: as many as the steps take, and 20 for multipliers.
        generator: randomness of the search. None: a new one with seed 0.
        progress: called with (steps done, steps in all) of the search.

    Returns:
        Both ends. ``upper`` is inf, with the reason, where nothing can be proved.

    Raises:
        TypeError: the inputs or the model are not floating-point.
        ValueError: an option, the shape, the device or the weights are not what is expected; batch norm is in training
            mode.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
        >>> b = bracket(model, shape=(2,))
        >>> b.lower <= b.upper
        True
    """
    started = time.monotonic()
    norm = check_chain_norm(norm)
    check_budget(steps, seconds)
    if method is not None and method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    shape = _shape(shape, domain, x)
    _check_model(model, shape, x)
    chain, reason = _chain(model, shape)
    above = _SECONDS if seconds is None else seconds / 2
    if chain is None:
        upper = Upper(math.inf, "none", reason)
    else:
        upper = upper_bound(chain, norm, domain, method, seconds=above)
    exact = None if chain is None else partial(enclose, chain)
    starts = _starts(model, domain, shape, generator) if x is None else x
    if exact is not None and not bool(torch.isfinite(torch.cat(exact(starts[:1].double()))).all()):
        exact = None
    lower = largest_quotient(
        model,
        starts,
        domain=domain,
        size=_size(chain),
        steps=steps,
        seconds=None if seconds is None else max(seconds / 2, started + seconds - time.monotonic()),
        norm_in=norm,
        norm_out=norm,
        generator=generator,
        enclosure=exact,
        switches=None if chain is None else switches(chain, domain),
        progress=progress,
    )
    assert lower.value <= upper.value, (
        f"internal error: the quotient {lower.value!r} of the witness is above the bound {upper.value!r} "
        f"({upper.method}): please report the model"
    )
    return Bracket(
        lower=lower.value,
        witness=lower.witness,
        upper=upper.value,
        method=upper.method,
        norm=norm,
        seconds=time.monotonic() - started,
        reason=upper.reason,
        domain=domain,
    )


def pairwise(
    model: nn.Module, domain: Domain | None = None, shape: tuple[int, ...] | None = None, *, seconds: float = 20.0
) -> Tensor:
    r"""Upper bounds of Lip(f_i − f_j), 2 → 2, for every pair of outputs: what a margin between two classes can lose.

    Args:
        model: one tensor (B, \*shape) in, (B, C) out.
        domain: where inputs live; the bounds are local to a bounded one. None: all of space.
        shape: of one input; may be left out where a ball tells.
        seconds: for the optimisation, about.

    Returns:
        (C, C) float64, symmetric, zeros on the diagonal.

    Raises:
        UnsupportedLayerError: the model cannot be read; names the layer.
        TypeError, ValueError: as in :func:`bracket`.

    Example:
        >>> import torch
        >>> swap = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.eye_(swap.weight)
        >>> round(float(pairwise(swap, shape=(2,))[0, 1]), 6)
        1.414214
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module, got {type(model).__name__}: a plain function cannot be read")
    shape = _shape(shape, domain, None)
    _check_model(model, shape, None)
    chain = read(model, shape)
    if len(chain.out_shape) != 1:
        raise ValueError(f"expected a model with outputs (B, C), got (B, {', '.join(map(str, chain.out_shape))})")
    return pair_bounds(chain, domain, seconds=seconds)


def _shape(shape: tuple[int, ...] | None, domain: Domain | None, x: Tensor | None) -> tuple[int, ...]:
    if domain is not None and not isinstance(domain, Domain):
        raise TypeError(f"domain: expected a Box, a Ball or None, got {type(domain).__name__}: try Box(0.0, 1.0)")
    if shape is not None and not isinstance(shape, Sequence):
        raise TypeError(f"shape: expected the shape of one input, such as (1, 28, 28), got {shape!r}")
    if x is not None and (not isinstance(x, Tensor) or not x.is_floating_point()):
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: expected floating-point inputs, got {kind}: convert them with x.float()")
    if x is not None and len(x) == 0:
        raise ValueError(f"x: expected at least one input, got shape {tuple(x.shape)}")
    told = [
        *([tuple(shape)] if shape is not None else []),
        *([tuple(x.shape[1:])] if x is not None else []),
        *([tuple(domain.center.shape)] if isinstance(domain, Ball) else []),
    ]
    if not told:
        raise ValueError("shape: expected the shape of one input, such as (1, 28, 28), or inputs x that tell it")
    if len(set(told)) > 1:
        raise ValueError(f"expected one shape of inputs, got {' and '.join(map(str, told))} from shape, x and domain")
    if any(not isinstance(n, int) or n < 1 for n in told[0]):
        raise ValueError(f"shape: expected positive whole numbers, got {told[0]}")
    if domain is not None:
        domain.check_shape(told[0])
    return told[0]


def _tensors(model: Model) -> list[tuple[str, Tensor]]:
    if not isinstance(model, nn.Module):
        return []
    return [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()]


def _like(model: Model, x: Tensor | None = None) -> Tensor:
    tensors = [tensor for _, tensor in _tensors(model)]
    return (tensors or [torch.zeros(()) if x is None else x])[0]


def _check_model(model: Model, shape: tuple[int, ...], x: Tensor | None) -> None:
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            mode, remedy = "is in training mode", "call model.eval() first"
            if module.running_mean is None:
                mode, remedy = "has no running statistics", "train it with track_running_stats=True"
            raise ValueError(
                f"layer {name or 'model'!r} ({type(module).__name__}) {mode}, where its output depends on the whole "
                f"batch: {remedy}"
            )
    devices = sorted({str(tensor.device) for _, tensor in _tensors(model)})
    if len(devices) > 1:
        raise ValueError(
            f"model: expected one device, got weights on {' and '.join(devices)}: move it with .to(device)"
        )
    if x is not None and devices not in ([], [str(x.device)]):
        raise ValueError(
            f"x is on {x.device}, the model on {devices[0]}: expected one device, move one with .to(device)"
        )
    if devices == ["meta"]:
        raise ValueError("model: expected weights with values, got tensors on the meta device: load them first")
    for name, tensor in _tensors(model):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"weight {name!r}: expected finite numbers, got NaN or Inf: train again, or load it again")
    like = _like(model, x)
    if like.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"model: expected weights in float32 or float64, got {like.dtype}: call model.float() first")
    probe = torch.zeros(2, *shape, dtype=like.dtype, device=like.device) if x is None else x[:2].to(like.dtype)
    with evaluation_mode(model), torch.no_grad():
        try:
            out = model(probe)
        except Exception as error:  # whatever a user's model raises
            raise ValueError(
                f"the model cannot take inputs of shape (B, {', '.join(map(str, shape))}): {error}"
            ) from error
    if not isinstance(out, Tensor) or out.dim() == 0 or len(out) != len(probe) or out.numel() == 0:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"expected a model with one tensor out, at least one number for each input, got {got}")


def _chain(model: Model, shape: tuple[int, ...]) -> tuple[Chain | None, str]:
    if not isinstance(model, nn.Module):
        return (
            None,
            f"a plain function ({getattr(model, '__name__', type(model).__name__)}) cannot be read: pass a module",
        )
    try:
        return read(model, shape), ""
    except UnsupportedLayerError as error:
        return None, str(error)


def _size(chain: Chain | None) -> int:
    """Pairs of the search: fewer for larger models."""
    values = 0 if chain is None else sum(math.prod(step.shape) for step in chain.steps)
    return 64 if chain is None else min(1024, max(8, _VALUES // max(1, values)))


def _starts(model: Model, domain: Domain | None, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    like = _like(model)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if domain is not None and domain.bounded:
        return domain.sample(_STARTS, shape, generator=generator, dtype=like.dtype).to(like.device)
    sizes = 10 ** (3 * torch.rand(_STARTS, generator=generator, dtype=like.dtype, device=generator.device) - 1.5)
    x = torch.randn(_STARTS, *shape, generator=generator, dtype=like.dtype, device=generator.device)
    x = (sizes.reshape(-1, *[1] * len(shape)) * x).to(like.device)
    return (Box() if domain is None else domain).project(x)
