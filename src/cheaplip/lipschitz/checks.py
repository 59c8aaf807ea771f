"""Checks of what is bracketed: the shape of one input, and a model in evaluation mode that takes it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cheaplip.domain import Ball, Domain
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode

__all__ = ["check_model", "input_shape", "like_weights"]


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
            model cannot take such inputs or does not return one tensor with a row for each.
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
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"weight {name!r}: expected finite numbers, got NaN or Inf: train again, or load it again")
    like = like_weights(model, x)
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


def like_weights(model: Model, x: Tensor | None = None) -> Tensor:
    """Return a tensor of the type and on the device of the model's weights; without weights, of ``x``."""
    tensors = [tensor for _, tensor in _tensors(model)]
    return (tensors or [torch.zeros(()) if x is None else x])[0]


def _tensors(model: Model) -> list[tuple[str, Tensor]]:
    """Return the floating-point parameters and buffers by name; none for a plain function."""
    if not isinstance(model, nn.Module):
        return []
    return [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()]
