"""``build``: a model from its name, or from a function of your own."""

import re
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from cheaplip.data.importing import import_object
from cheaplip.errors import ModelError
from cheaplip.modes import evaluation_mode
from cheaplip.suggestion import did_you_mean, nearest
from cheaplip.training.models.activations import ACTIVATIONS, Activation, check_widths
from cheaplip.training.models.convolutional import check_images, four_and_three, madry, two_and_two
from cheaplip.training.models.perceptrons import perceptron
from cheaplip.training.models.residual import depth_and_width, residual_network

__all__ = ["FinalActivation", "build", "check_model", "is_perceptron"]

FinalActivation = Literal["none", "sigmoid"]

_CONVOLUTIONAL: dict[str, Callable[[tuple[int, ...], int, Callable[[], nn.Module]], nn.Module]] = {
    "cnn": madry,
    "2c2f": two_and_two,
    "4c3f": four_and_three,
}
_WITH_NUMBERS = ("mlp", "resnet")  # after a colon


def build(
    spec: str,
    shape: tuple[int, ...],
    outputs: int,
    *,
    activation: Activation = "sigmoid",
    final_activation: FinalActivation = "none",
    seed: int = 0,
) -> nn.Module:
    r"""Build a model with weights drawn from ``seed``; the global random state is left as it was.

    Args:
        spec: ``mlp:WIDTHS`` (``mlp:200,80`` has two hidden layers), ``linear``; for inputs (C, H, W) also ``cnn`` (the
            small network of Madry et al. 2018), ``2c2f`` and ``4c3f`` (those of Wong and Kolter 2018) and
            ``resnet:DEPTH,WIDTH`` (that of He et al. 2016 for small images, ``resnet:20,16`` for example); or
            ``package.module:function``, a function that takes ``shape`` and ``outputs`` and returns a module.
        shape: the shape of one input.
        outputs: the number of classes, or of numbers to predict.
        activation: the activation between the layers of models by name. ``"maxmin"`` sorts channels in pairs,
            ``"groupsort"`` sorts them all.
        final_activation: the activation of the outputs. ``"sigmoid"`` is what the paper's authors used; it hides
            gradients from attacks.
        seed: seed of the weights.

    Returns:
        A module from (B, \*shape) to (B, outputs).

    Raises:
        ModelError: an unknown name, a shape that the model cannot take, or outputs that are not (B, outputs).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _construct(spec, shape, outputs, activation)
    if final_activation == "sigmoid":
        model = nn.Sequential(model, nn.Sigmoid())
    check_model(model, spec, shape, outputs)
    return model


def is_perceptron(spec: str) -> bool:
    """Return whether a model's name is that of a multilayer perceptron."""
    return spec.startswith("mlp:")


def _construct(spec: str, shape: tuple[int, ...], outputs: int, activation: Activation) -> nn.Module:
    make = ACTIVATIONS[activation]
    if is_perceptron(spec):
        widths = _widths(spec)
        check_widths(spec, activation, *widths)
        return perceptron(shape, outputs, widths, make)
    if spec == "linear":
        return perceptron(shape, outputs, [], nn.Identity)
    if spec in _CONVOLUTIONAL:
        check_images(spec, shape)
        return _CONVOLUTIONAL[spec](shape, outputs, make)
    if spec.partition(":")[0] == "resnet":
        depth, width = depth_and_width(spec)
        check_images(spec, shape)
        check_widths(spec, activation, width)
        return residual_network(shape, outputs, depth, width, make)
    if ":" in spec:
        return _own(spec, shape, outputs)
    raise ModelError(
        f"unknown model {spec!r}: expected mlp:WIDTHS (such as mlp:200,80), {', '.join(_CONVOLUTIONAL)}, "
        "resnet:DEPTH,WIDTH (such as resnet:20,16), linear, or package.module:function"
        f"{did_you_mean(spec.lower(), (*_CONVOLUTIONAL, 'linear'))}"
    )


def _own(spec: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Call a function of the user's."""
    function: Callable[[tuple[int, ...], int], nn.Module]
    try:
        function = import_object(spec, ModelError, "package.module:function")
    except ModelError as error:
        raise ModelError(f"{error}{_similar(spec, error.__cause__)}") from error
    try:
        model = function(shape, outputs)
    except Exception as error:  # whatever a user's function raises
        raise ModelError(f"{spec}: the function failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec}: expected a function of (shape, outputs) that returns a module, got {type(model).__name__}"
        )
    return model


def _similar(spec: str, cause: BaseException | None) -> str:
    """Return a hint at the model that was meant by numbers after the name of a module that does not exist."""
    module, _, numbers = spec.partition(":")
    missing = isinstance(cause, ModuleNotFoundError) and cause.name == module
    near = nearest(module.lower(), _WITH_NUMBERS) if missing and re.fullmatch(r"[\d, ]+", numbers) else None
    return "" if near is None else f"; did you mean {near}:{numbers}?"


def _widths(spec: str) -> list[int]:
    try:
        widths = [int(part) for part in spec.partition(":")[2].split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1:
        raise ModelError(f"model {spec!r}: expected positive widths, such as mlp:200,80")
    return widths


@torch.no_grad()
def check_model(model: nn.Module, spec: str, shape: tuple[int, ...], outputs: int) -> None:
    r"""Raise a :class:`ModelError` unless the model maps two inputs (2, \*shape) to outputs (2, outputs)."""
    try:
        with evaluation_mode(model):
            output = model(torch.zeros(2, *shape))
    except Exception as error:  # whatever a user's model raises
        raise ModelError(
            f"model {spec!r} cannot take inputs of shape (B, {', '.join(map(str, shape))}): {error}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (2, outputs):
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(f"model {spec!r}: expected outputs (B, {outputs}), one logit per class, got {got} for B = 2")
