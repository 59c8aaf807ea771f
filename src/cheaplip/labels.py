"""The check of class labels, the same wherever labels are compared with predictions."""

import torch
from torch import Tensor

__all__ = ["check_labels"]


def check_labels(x: Tensor, y: object, classes: int) -> None:
    r"""Refuse what is not a class for each input.

    Args:
        x: inputs, (B, \*input).
        y: what should be their labels: integers from 0 to ``classes`` - 1, (B,).
        classes: the number of classes.

    Raises:
        TypeError: ``y`` is no tensor of integers.
        ValueError: there is not one label for each input, or a label is out of range, or on another device.
    """
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"labels: expected integers, got {got}: convert class numbers with y.long()")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(x)} inputs, got shape {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"labels are on {y.device}, the inputs on {x.device}: move one with .to(device)")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        remedy = ": subtract 1 from labels that start at 1" if int(y.min()) >= 1 and int(y.max()) == classes else ""
        raise ValueError(f"labels: expected 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}{remedy}")
