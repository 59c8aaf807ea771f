"""Checks of what is bracketed: the shape of one input, and a model in evaluation mode that takes it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cheaplip.domain import Ball, Domain
from cheaplip.lipschitz.reading.agreement import check_weights_stay
from cheaplip.model import Model, call_on_copy
from cheaplip.modes import evaluation_mode

__all__ = ["check_model", "input_shape", "like_weights"]

_PROBES = 16  # inputs on which a model is called twice
_ROUNDING = {"cpu": 4.0}  # units in the last place by which two calls may differ
_ROUNDING_ELSEWHERE = 64.0  # sums on a GPU have no fixed order


def input_shape(shape: tuple[int, ...] | None, domain: Domain | None, x: Tensor | None) -> tuple[int, ...]:
    r"""Return the shape of one input, from whichever argument has it.

    Args:
        shape: of one input, or None.
        domain: a ball has the shape of its centre.
        x: inputs, (B, \*shape), or None.

    Raises:
        TypeError: an argument is of another kind, or ``x`` is not floating-point.
        ValueError: there is no shape, more than one, or it does not fit the domain.
    """
    if domain is not None and not isinstance(domain, Domain):
        raise TypeError(f"domain: expected a Box, a Ball or None, got {type(domain).__name__}: try Box(0.0, 1.0)")
    if shape is not None and not isinstance(shape, Sequence):
        raise TypeError(f"shape: expected the shape of one input, such as (1, 28, 28), got {shape!r}")
    if x is not None and (not isinstance(x, Tensor) or not x.is_floating_point()):
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: expected floating-point inputs, got {kind}: convert them with x.float()")
    if x is not None and len(x) == 0:
        raise ValueError(f"x: expected at least one input, got shape {tuple(x.shape)}")
    given = [
        *([tuple(shape)] if shape is not None else []),
        *([tuple(x.shape[1:])] if x is not None else []),
        *([tuple(domain.center.shape)] if isinstance(domain, Ball) else []),
    ]
    if not given:
        raise ValueError("shape: expected the shape of one input, such as (1, 28, 28), or inputs x of that shape")
    if len(set(given)) > 1:
        raise ValueError(f"expected one shape of inputs, got {' and '.join(map(str, given))} from shape, x and domain")
    if any(not isinstance(n, int) or n < 1 for n in given[0]):
        raise ValueError(f"shape: expected positive whole numbers, got {given[0]}")
    if domain is not None:
        domain.check_shape(given[0])
    return given[0]


def check_model(model: Model, shape: tuple[int, ...], x: Tensor | None) -> None:
    """Refuse a model that cannot be bracketed.

    Args:
        model: a module or a function.
        shape: of one input.
        x: inputs to try it on. None: zeros.

    Raises:
        TypeError: weights are neither float32 nor float64.
        ValueError: batch norm would use the batch's statistics, weights are not finite or on several devices, or the
            model assigns its weights anew, cannot take such inputs, does not return one tensor with a row for each, or
            returns another one when it is called again.
    """
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
        if not bool(torch.isfinite(tensor.detach()).all()):
            raise ValueError(f"weight {name!r}: expected finite numbers, got NaN or Inf: train again, or load it again")
    like = like_weights(model, x)
    for name, tensor in (*_tensors(model), ("x", like)):
        if tensor.dtype not in (torch.float32, torch.float64):
            where = "" if tensor is like else f" in {name!r}"
            raise TypeError(
                f"model: expected weights in float32 or float64, got {tensor.dtype}{where}: call model.float() first, "
                "and leave out conversions to lower precision inside"
            )
    probe = torch.zeros(2, *shape, dtype=like.dtype, device=like.device) if x is None else x[:2].to(like.dtype)
    if isinstance(model, nn.Module):
        check_weights_stay(model, probe)
    cuda = [like.device] if like.device.type == "cuda" else []
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(cuda):
        try:
            out = call_on_copy(model, probe)
        except Exception as error:  # whatever a user's model raises
            raise ValueError(
                f"the model cannot take inputs of shape (B, {', '.join(map(str, shape))}): {error}"
            ) from error
    if not isinstance(out, Tensor) or out.dim() == 0 or len(out) != len(probe) or out.numel() == 0:
        got = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"expected a model with one tensor out, at least one number for each input, got {got}")
    _check_repeatable(model, shape, like, x)


@torch.no_grad()
def _check_repeatable(model: Model, shape: tuple[int, ...], like: Tensor, x: Tensor | None) -> None:
    """Refuse a model that returns something else when it is called again: a quotient of it means nothing."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(_PROBES, *shape, generator=generator).to(like) if x is None else x[:_PROBES].to(like.dtype)
    with evaluation_mode(model), torch.random.fork_rng([like.device] if like.device.type == "cuda" else []):
        out, again = call_on_copy(model, probe), call_on_copy(model, probe)
    eps = torch.finfo(out.dtype).eps if out.is_floating_point() or out.is_complex() else 0.0
    units = _ROUNDING.get(like.device.type, _ROUNDING_ELSEWHERE)
    allowed = units * eps * float(torch.where(torch.isfinite(out), out, 0).abs().amax())
    if again.shape != out.shape or not torch.isclose(again, out, rtol=0, atol=allowed, equal_nan=True).all():
        kind = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "function")
        raise ValueError(
            f"model ({kind}): two calls on the same input differ in evaluation mode, so nothing can be measured or "
            "proved: let it draw random numbers, or count, in training only, as F.dropout(x, p, self.training) does"
        )


def like_weights(model: Model, x: Tensor | None = None) -> Tensor:
    """Return a tensor of the type and on the device of the model's weights; without weights, of ``x``."""
    tensors = [tensor for _, tensor in _tensors(model)]
    return (tensors or [torch.zeros(()) if x is None else x])[0]


def _tensors(model: Model) -> list[tuple[str, Tensor]]:
    """Return the floating-point parameters and buffers by name; none for a plain function."""
    if not isinstance(model, nn.Module):
        return []
    return [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()]
