"""What a model is to this package: one tensor in, one tensor out, a row for each input."""

import copy
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "Model",
    "call_on_copy",
    "check_model_and_inputs",
    "checked_output",
    "in_float64",
    "without_inference_tensors",
]

Model = nn.Module | Callable[[Tensor], Tensor]
"""A module, or any function, with one tensor in and one out."""

AnyModel = TypeVar("AnyModel", bound=Model)


def call_on_copy(model: Model, x: Tensor) -> Tensor:
    """Call a model with a copy of its inputs, into which it may write; gradients pass through the copy."""
    return model(x.clone())


def check_model_and_inputs(call: str, model: object, x: object) -> None:
    """Refuse inputs that are no tensor, and a tensor in the place of the model.

    Args:
        call: the name of what was called, for the message.
        model, x: what it was given.

    Raises:
        TypeError: names what was expected.
    """
    if not isinstance(x, Tensor) or isinstance(model, Tensor):
        order = ": the model comes first" if isinstance(model, Tensor) and not isinstance(x, Tensor) else ""
        got = f"{type(model).__name__} and {type(x).__name__}"
        raise TypeError(f"{call}: expected a model, and a tensor of inputs, got {got}{order}")


def without_inference_tensors(model: AnyModel) -> AnyModel:
    """Return a copy of a model whose weights were made under ``torch.inference_mode``; any other model as it is.

    Autograd refuses such weights, also where only the gradient with respect to the inputs is wanted.
    """
    if not isinstance(model, nn.Module) or torch.is_inference_mode_enabled():
        return model
    return copy.deepcopy(model) if any(t.is_inference() for t in (*model.parameters(), *model.buffers())) else model


def in_float64(model: Model) -> Model:
    """Return a copy of a module in float64; a function, or a module that cannot be copied, as it is."""
    if not isinstance(model, nn.Module):
        return model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying what torch.export returns
            return copy.deepcopy(model).double()
    except Exception:  # whatever a user's module raises
        return model


def checked_output(output: object, rows: int) -> Tensor:
    r"""Return a model's output if it is one tensor with a row for each input, (rows, \*output); raise otherwise.

    Raises:
        TypeError: the output is no tensor.
        ValueError: it has another number of rows.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"expected a model with one tensor out, got {type(output).__name__}: "
            "wrap it in a module whose forward returns the tensor that matters"
        )
    if output.dim() == 0 or len(output) != rows:
        raise ValueError(f"expected one output per input, ({rows}, *output), got shape {tuple(output.shape)}")
    return output
