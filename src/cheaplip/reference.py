"""A target from a plain network: how good it is, less what one is willing to give up for stability.

``reference_target`` is for a training loop of your own; ``cheaplip train`` uses the functions below it.
"""

import math
import warnings

import torch
from torch import Tensor, nn

from cheaplip.errors import CheaplipWarning
from cheaplip.modes import evaluation_mode

__all__ = [
    "accuracy_of",
    "balanced_accuracy",
    "constant_accuracy",
    "constant_error",
    "has_rare_classes",
    "read_fraction",
    "reference_target",
    "root_mean_square",
    "target_accuracy",
    "target_error",
]

_RARE = 0.5  # a class is rare if it has fewer inputs than this fraction of an equal share
_BATCH = 1000  # inputs measured at a time


def reference_target(
    model: nn.Module, x: Tensor, y: Tensor, *, give_up: float | str = "0.5%", balanced: bool = False
) -> float:
    r"""Measure a plain network on validation data, and return the target of a network that gives up a little of that.

    Train the same network without a penalty first. Then ``DiscrepancyPrinciple(clip, target=target)`` steers λ so that
    the stable network's figure on the validation data, measured after each epoch, is the target:

    - for classes, accuracy − ``give_up``, in (0, 1);
    - for numbers, RMSE · (1 + ``give_up``), with ``mode="min"``.

    The target is never nearer to the figure of the best constant answer than to that of the network.

    Args:
        model: the plain network; outputs (B, classes) or (B, k).
        x: validation inputs, (N, \*shape).
        y: their labels: classes (N,), integers; or numbers (N,) or (N, k).
        give_up: a fraction, such as 0.005, or a percentage, such as ``"0.5%"``: points of accuracy, or for numbers a
            part of the error.
        balanced: take the balanced accuracy, the mean over classes of the fraction that is classified correctly. Use
            it where a class is rare, and give the controller the balanced accuracy, too.

    Returns:
        The target.

    Raises:
        ValueError: ``give_up`` or the labels are out of range, or the network is no better than a constant answer.

    Example:
        >>> plain = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.eye_(plain.weight)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(50, 1)
        >>> reference_target(plain, x, torch.tensor([0, 1]).repeat(50), give_up="2%")
        0.98
    """
    amount = read_fraction("give_up", give_up)
    if not len(x) or len(x) != len(y):
        raise ValueError(f"x and y: expected as many labels as inputs, at least one, got {len(x)} and {len(y)}")
    with torch.no_grad(), evaluation_mode(model):
        output = torch.cat([model(part) for part in torch.split(x, _BATCH)])
    if y.is_floating_point():
        reached, constant = root_mean_square(output, y), constant_error(y)
        target = target_error(reached, amount, constant)
    else:
        if output.dim() != 2 or y.dim() != 1 or int(y.min()) < 0 or int(y.max()) >= output.shape[1]:
            raise ValueError(
                f"y: expected classes (N,) from 0 to the number of outputs - 1, got {tuple(y.shape)} from "
                f"{int(y.min())} to {int(y.max())} with outputs {tuple(output.shape)}"
            )
        if not balanced and has_rare_classes(y, output.shape[1]):
            warnings.warn(
                "y: a class is so rare that a high accuracy says little about it: use balanced=True, and step the "
                "controller with the balanced accuracy",
                CheaplipWarning,
                stacklevel=2,
            )
        reached = accuracy_of(output, y, balanced=balanced)
        constant = constant_accuracy(y, balanced=balanced)
        target = target_accuracy(reached, amount, constant, count=len(y))
    if target is None:
        raise ValueError(
            f"model: expected a network that is better than always giving the same answer ({constant:.4g}), "
            f"got {reached:.4g}: train it longer, or check the data"
        )
    return target


def read_fraction(name: str, value: float | str) -> float:
    """Read a fraction that may be written as a percentage: 0.005, ``"0.005"``, ``"0.5%"`` or ``"0.5 %"``.

    Args:
        name: of the option, for the message.
        value: what was given.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        text = value.strip()
        number = text.removesuffix("%")
        try:
            value = float(number) / (100 if text.endswith("%") else 1)
            value = float(f"{value:.15g}")  # 0.7 / 100 is 0.006999999999999999
        except ValueError:
            example = "0.98, or 98%" if name == "target" else "0.005, or 0.5%"
            raise ValueError(f"{name}: expected a fraction such as {example}, got {text!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


def has_rare_classes(y: Tensor, classes: int) -> bool:
    """Return whether a class has less than half of an equal share of the labels, and at least one.

    With two classes that is less than 25 %, with ten less than 5 %.

    Args:
        y: labels (N,), integers from 0.
        classes: the number of classes.
    """
    counts = torch.bincount(y, minlength=classes)
    return bool((counts[counts > 0] < _RARE * len(y) / classes).any())


def accuracy_of(output: Tensor, y: Tensor, *, balanced: bool = False) -> float:
    """Return the fraction of inputs that are predicted correctly; if balanced, its mean over the classes in ``y``.

    Args:
        output: (N, classes).
        y: classes (N,), integers from 0.
        balanced: whether each class counts the same.
    """
    predicted = output.argmax(dim=1)
    return balanced_accuracy(predicted, y) if balanced else float((predicted == y).double().mean())


def balanced_accuracy(predicted: Tensor, y: Tensor) -> float:
    """Return the mean over the classes in ``y`` of the fraction of their inputs that are predicted correctly.

    Args:
        predicted, y: classes (N,), integers from 0.
    """
    counts = torch.bincount(y)
    right = torch.bincount(y[predicted == y], minlength=len(counts))
    there = counts > 0
    return float((right[there].double() / counts[there]).mean())


def root_mean_square(output: Tensor, y: Tensor) -> float:
    """Return the RMSE of predictions, (N, k) or (N,), of as many labels."""
    errors = output.double().reshape(len(y), -1) - y.double().reshape(len(y), -1)
    return float(errors.square().mean().sqrt())


def constant_accuracy(y: Tensor, *, balanced: bool = False) -> float:
    """Return the accuracy of the best constant answer: the share of the largest class, or if balanced 1 / classes."""
    counts = torch.bincount(y)
    return 1 / int((counts > 0).sum()) if balanced else float(counts.max()) / len(y)


def constant_error(y: Tensor) -> float:
    """Return the RMSE of the best constant answer, the mean of the labels, (N,) or (N, k)."""
    y = y.double().reshape(len(y), -1)
    return float((y - y.mean(dim=0)).square().mean().sqrt())


def target_accuracy(reached: float, give_up: float, constant: float, *, count: int) -> float | None:
    """Return the accuracy that remains, halfway to that of the best constant answer at least.

    Args:
        reached: the plain network's accuracy.
        give_up: in points, a fraction.
        constant: accuracy of the best constant answer.
        count: number of labels; where nothing is given up of a perfect accuracy, half a label is.

    Returns:
        The target, in (0, 1). None: the network is no better than a constant answer.

    Raises:
        ValueError: ``give_up`` is out of range.
    """
    if not 0 <= give_up < 0.5:
        raise ValueError(f"give_up: expected points of accuracy, from 0 to below 0.5, got {give_up}: 0.5 % is 0.005")
    if reached <= constant:
        return None
    target = min(max(reached - give_up, (reached + constant) / 2), 1 - 0.5 / count)
    return float(f"{target:.12g}")


def target_error(reached: float, give_up: float, constant: float) -> float | None:
    """Return the RMSE that remains, halfway to that of the best constant answer at most.

    Args:
        reached: the plain network's RMSE.
        give_up: as a part of it.
        constant: RMSE of the best constant answer.

    Returns:
        The target, positive. None: the network is no better than a constant answer.

    Raises:
        ValueError: ``give_up`` is out of range.
    """
    if give_up < 0:
        raise ValueError(f"give_up: expected a part of the error, at least 0, got {give_up}: 0.5 % is 0.005")
    if reached >= constant:
        return None
    return max(min(reached * (1 + give_up), (reached + constant) / 2), 1e-6 * constant)
