"""The accuracy of a batch for outputs and labels of any usual form; adapters steer λ by it."""

import torch
from torch import Tensor

__all__ = ["IGNORED", "count_right", "count_right_of_threshold", "share"]

IGNORED = -100
"""The label that torch's and transformers' losses leave out."""


@torch.no_grad()
def count_right(
    output: Tensor, y: Tensor | None, *, last: bool = False, soft: bool = False, ignored: int = IGNORED
) -> Tensor:
    r"""Count the labels that the largest logit is right about.

    Args:
        output: logits, (B, classes), or with a place for each pixel or token (B, classes, \*places).
        y: labels, (B, \*places) of integers; with ``soft`` also weights of the classes, of the output's shape.
        last: the classes are the last dimension, (B, \*places, classes).
        soft: labels of the output's shape are weights of the classes, such as one-hot labels.
        ignored: the label that is left out.

    Returns:
        The number of right labels and the number of labels, (2,).

    Raises:
        ValueError: outputs and labels do not fit each other.
    """
    if not isinstance(y, Tensor) or output.dim() < 2:
        raise _misfit(output, y)
    places = [dim for dim in ((-1, 1) if last else (1, -1)) if _without(output, dim) == _trimmed(y, output.dim() - 1)]
    if output.shape[1] > 1 and soft and y.is_floating_point() and y.shape == output.shape:
        right = output.argmax(dim=1) == y.argmax(dim=1)
        return torch.stack([right.sum(), right.new_tensor(right.numel(), dtype=torch.long)]).float()
    if not places or y.is_floating_point() or y.dtype == torch.bool or output.shape[places[0]] < 2:
        raise _misfit(output, y)
    prediction = output.argmax(dim=places[0])
    y = y.reshape(prediction.shape)
    counted = y != ignored
    return torch.stack([((prediction == y) & counted).sum(), counted.sum()]).float()


@torch.no_grad()
def count_right_of_threshold(output: Tensor, y: Tensor | None, *, threshold: float, middle: float = 0.5) -> Tensor:
    r"""Count the yes-or-no labels that outputs are right about; each label of several counts.

    Args:
        output: a number for each label, (B, \*labels), or (B, 1) for labels (B,).
        y: labels, of the same shape up to dimensions of 1 at the end; yes where they are above ``middle``.
        threshold: outputs above it mean yes.
        middle: between the label for no and that for yes.

    Returns:
        The number of right labels and the number of labels, (2,).

    Raises:
        ValueError: outputs and labels do not fit each other.
    """
    if not isinstance(y, Tensor) or _trimmed(output) != _trimmed(y):
        raise _misfit(output, y)
    y = y.reshape(output.shape)
    counted = y != IGNORED
    right = ((output > threshold) == (y > middle)) & counted
    return torch.stack([right.sum(), counted.sum()]).float()


def share(counts: Tensor) -> Tensor:
    """Divide the number of right labels by the number of labels; NaN, which moves no λ, where there are none."""
    return counts[0] / counts[1]


def _trimmed(tensor: Tensor, least: int = 1) -> tuple[int, ...]:
    """The shape without dimensions of 1 at its end, as far as ``least`` dimensions are left."""
    shape = tuple(tensor.shape)
    while len(shape) > least and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _without(tensor: Tensor, dim: int) -> tuple[int, ...]:
    shape = list(tensor.shape)
    del shape[dim]
    return tuple(shape)


def _misfit(output: Tensor, y: object) -> ValueError:
    got = f"{y.dtype} labels of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"labels {type(y).__name__}"
    return ValueError(
        f"target: no accuracy is known for outputs of shape {tuple(output.shape)} and {got}: pass metric=, a function "
        "that returns a fraction in [0, 1], or steer by the loss"
    )
