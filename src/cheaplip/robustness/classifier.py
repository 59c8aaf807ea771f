"""The model under attack: its logits, its accuracy, and what would make an attack on it unreliable."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.random import fork_rng

from cheaplip.errors import CheaplipWarning
from cheaplip.labels import check_labels
from cheaplip.model import Model, call_on_copy
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import at_least_float32
from cheaplip.robustness.stage import lead_of

__all__ = ["AttackableLogits", "accuracy", "check_classifier", "check_inputs", "checked_prediction", "predict"]


def accuracy(model: Model, x: Tensor, y: Tensor, *, batch_size: int = 1000) -> float:
    r"""Compute the fraction of inputs whose largest logit is that of their label.

    Args:
        model: from inputs (B, \*input) to logits (B, classes).
        x, y: inputs (N, \*input) and their integer labels (N,), from 0 to classes - 1.
        batch_size: inputs in a pass.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        TypeError: labels are not integers.
        ValueError: the arguments do not fit together, a label is out of range, or the output isn't (B, classes).
    """
    check_inputs(x, batch_size)
    with evaluation_mode(model):
        logits = _all_logits(model, x, batch_size)
    check_labels(x, y, logits.shape[1])
    return float((logits.argmax(1) == y).double().mean())


def check_classifier(model: Model, x: Tensor, classes: int | None = None) -> None:
    r"""Warn of what makes a model look robust, or an attack unreliable. Call it once per model, before attacking.

    Args:
        model, x: as for :func:`attack`; the first 1,000 inputs are used.
        classes: how many there should be. None: any number from two.

    Raises:
        ValueError: the output isn't (N, classes), or not finite.

    Warns:
        CheaplipWarning: outputs differ between two calls, or look like probabilities, or the gradient is zero, also of
            the logits divided by their lead.
    """
    x = x.detach()[:1000]
    with evaluation_mode(model), fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
        again = _logits(model, x, classes).detach()
        z = x.clone().requires_grad_()
        output: Tensor = AttackableLogits.apply(model, z)  # type: ignore[no-untyped-call]
        winner = output.argmax(1)
        lead = lead_of(output.detach(), winner)
        scale = torch.where(lead > 0, lead, 1.0)  # attacks rescale, too
        loss = cross_entropy(output / scale.unsqueeze(1), winner, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
    if not bool(output.isfinite().all()):
        raise ValueError("expected finite logits, got NaN or inf: look for overflow, or for NaN in the model's weights")
    if _differ(output.detach(), again):
        warnings.warn(
            "outputs differ between two calls in evaluation mode, so gradient attacks are unreliable: "
            "make the model deterministic, or average its logits over many calls",
            CheaplipWarning,
            stacklevel=2,
        )
    if bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones_like(output[:, 0]), atol=1e-4):
        warnings.warn(
            "outputs look like probabilities, which makes attacks look weak: pass logits, without the softmax",
            CheaplipWarning,
            stacklevel=2,
        )
    flat = int((gradient.flatten(1) == 0).all(1).sum())
    if flat:
        warnings.warn(
            f"the gradient of the cross-entropy is zero at {flat} of {len(x)} inputs (gradient masking), so gradient "
            "attacks overrate the model: pass logits, without final activation, rounding or torch.no_grad()",
            CheaplipWarning,
            stacklevel=2,
        )


class AttackableLogits(torch.autograd.Function):
    """The model's logits, with a backward pass that reaches the inputs and no parameter's ``.grad``."""

    @staticmethod
    def forward(ctx: Any, model: Model, x: Tensor) -> Any:
        """Run the model, and keep its graph for the backward pass if the inputs need a gradient."""
        with torch.set_grad_enabled(ctx.needs_input_grad[1]):
            ctx.x = x.detach().requires_grad_(ctx.needs_input_grad[1])
            ctx.logits = _logits(model, ctx.x)
        return ctx.logits.detach().clone()  # Square writes into it

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        """Return the gradient with respect to the inputs; 0 if the model cuts it off."""
        if not ctx.logits.requires_grad:
            return None, torch.zeros_like(ctx.x)
        return None, *torch.autograd.grad(ctx.logits, ctx.x, gradient, materialize_grads=True)


def predict(model: Model, x: Tensor, batch_size: int) -> Tensor:
    r"""Compute the class of each input (N, \*input): the index of its largest logit, (N,)."""
    return _all_logits(model, x, batch_size).argmax(1)


def checked_prediction(model: Model, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    r"""Compute the classes as :func:`predict` does, of a model and labels (N,) that an attack can rely on.

    Raises:
        TypeError: labels are not integers.
        ValueError: a label is out of range, or the model is random.
    """
    logits = _all_logits(model, x, batch_size)
    check_labels(x, y, logits.shape[1])
    if _differ(logits[:batch_size], _all_logits(model, x[:batch_size], batch_size)):
        raise ValueError(
            "two calls on the same input differ in evaluation mode, so an attack on the model would mean nothing: make "
            "it deterministic, or attack a module that averages its logits over many draws with a fixed seed"
        )
    return logits.argmax(1)


def check_inputs(x: Tensor, batch_size: int) -> None:
    r"""Raise unless there are inputs (N, \*input) and a positive batch size."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not len(x):
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected a tensor of one or more inputs, (N, *input), got {got}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")


def _differ(output: Tensor, again: Tensor) -> bool:
    """Whether outputs of two calls differ by more than rounding."""
    return not torch.allclose(output, again, rtol=1e-4, atol=1e-5 * float(output.abs().amax()), equal_nan=True)


@torch.no_grad()
def _all_logits(model: Model, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([_logits(model, batch) for batch in torch.split(x, batch_size)])


def _logits(model: Model, x: Tensor, classes: int | None = None) -> Tensor:
    output = call_on_copy(model, x)
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if isinstance(output, Tensor) and output.is_complex():
        raise ValueError(f"expected real logits, got {output.dtype}: let the model return their magnitudes, say")
    if len(shape) != 2 or shape[0] != len(x) or shape[1] < 2 or classes not in (None, shape[1]):
        raise ValueError(
            f"expected logits of shape ({len(x)}, {classes or 'two or more classes'}), got "
            f"{shape or type(output).__name__}: let the model return one tensor, with a logit for each class"
        )
    return at_least_float32(output)
