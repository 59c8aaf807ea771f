"""Models by name: ``mlp:WIDTHS``, ``cnn``, ``linear``, or ``package.module:function``, a function of your own."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from cheaplip.data.importing import import_object
from cheaplip.errors import ModelError
from cheaplip.modes import evaluation_mode

__all__ = ["Activation", "FinalActivation", "build", "check_model", "is_perceptron"]

Activation = Literal["sigmoid", "tanh", "relu", "softplus", "elu"]
FinalActivation = Literal["none", "sigmoid"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}


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
        spec: ``mlp:WIDTHS`` (``mlp:200,80`` has two hidden layers), ``cnn`` (the small network of Madry et al. 2018,
            for inputs (C, H, W)), ``linear``, or ``package.module:function``, a function that takes ``shape`` and
            ``outputs`` and returns a module.
        shape: the shape of one input.
        outputs: the number of classes, or of numbers to predict.
        activation: the activation between the layers of ``mlp`` and ``cnn``.
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
    if is_perceptron(spec):
        return _mlp(shape, outputs, _widths(spec), _ACTIVATIONS[activation])
    if spec == "linear":
        return _mlp(shape, outputs, [], nn.Identity)
    if spec == "cnn":
        return _cnn(shape, outputs, _ACTIVATIONS[activation])
    if ":" in spec:
        function: Callable[[tuple[int, ...], int], nn.Module] = import_object(
            spec, ModelError, "package.module:function"
        )
        try:
            model = function(shape, outputs)
        except Exception as error:  # whatever a user's function raises
            raise ModelError(f"{spec}: the function failed with {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"{spec}: expected a function of (shape, outputs) that returns a module, got {type(model).__name__}"
            )
        return model
    raise ModelError(
        f"unknown model {spec!r}: expected mlp:WIDTHS (such as mlp:200,80), cnn, linear, or package.module:function"
    )


def _widths(spec: str) -> list[int]:
    try:
        widths = [int(part) for part in spec.partition(":")[2].split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1:
        raise ModelError(f"model {spec!r}: expected positive widths, such as mlp:200,80")
    return widths


def _mlp(shape: tuple[int, ...], outputs: int, widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    size = math.prod(shape)
    for width in widths:
        layers += [nn.Linear(size, width), activation()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


def _cnn(shape: tuple[int, ...], outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ModelError(
            f"model 'cnn': expected images (C, H, W) of at least 4 by 4 pixels, got inputs of shape {shape}"
        )
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        activation(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 1024),
        activation(),
        nn.Linear(1024, outputs),
    )


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
