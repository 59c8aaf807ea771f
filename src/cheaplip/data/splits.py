"""The split of a data set's rows into disjoint parts: in proportion to the classes, or at random."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from cheaplip.data.dataset import Data, Split
from cheaplip.errors import DataError

__all__ = ["hold_out", "split"]

_MANY = 5  # classes whose names are numbers


def split(
    y: Tensor, source: str, fractions: Sequence[float], seed: int, *, names: Sequence[str] = (), numbers: bool = False
) -> list[Tensor]:
    """Split rows into one part for each fraction, and the rest.

    Args:
        y: classes (N,), int64: every part gets the same proportion of each class. Numbers (N, k): rows are drawn at
            random.
        source: where they come from, for messages.
        fractions: the size of each part, as a fraction of all rows.
        seed: of the draw.
        names: of the classes, for messages; empty where they have none.
        numbers: whether the labels could also be numbers to predict.

    Returns:
        The rows of the rest, then those of each part; all disjoint.

    Raises:
        DataError: there are too few samples for that.
    """
    parts = 1 + len(fractions)
    if y.is_floating_point():
        return _split_at_random(len(y), source, fractions, seed)
    counts = y.bincount()
    if counts.min() < parts:
        rarest = int(counts.argmin())
        named = f"class {names[rarest]!r}" if len(names) else f"class {rarest}"
        raise DataError(
            f"{source}: expected at least {parts} samples of every class, one for each part of the split, "
            f"got {counts.min()} of {named}; add samples, or drop the class{_or_regression(len(counts), numbers)}"
        )
    rest, taken = np.arange(len(y)), []
    for fraction in fractions:
        size = round(fraction * len(y))
        try:
            rest, part = train_test_split(rest, test_size=size, stratify=y[rest], random_state=seed)
        except ValueError as error:
            raise DataError(
                f"{source}: cannot split off {size} of {len(y)} samples (a fraction of {fraction:g}) with all "
                f"{len(counts)} classes in every part; change the fraction, or add samples"
                f"{_or_regression(len(counts), numbers)}"
            ) from error
        taken.append(part)
    return [torch.from_numpy(rows) for rows in (rest, *taken)]


def hold_out(data: Data, count: int, seed: int) -> tuple[Data, Tensor]:
    r"""Remove inputs from the training part.

    Args:
        data: the data.
        count: how many inputs to remove.
        seed: seed of their choice.

    Returns:
        The data without them, and these inputs, (count, \*shape).

    Raises:
        DataError: there are not that many training inputs.
    """
    x, y = data.train
    if count >= len(x):
        raise DataError(f"held_out: expected fewer than the {len(x)} training inputs, got {count}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    if not count:
        return data, x[:0]
    return replace(data, train=Split(x[order[count:]], y[order[count:]])), x[order[:count]]


def _or_regression(classes: int, numbers: bool) -> str:
    if not numbers or classes < _MANY:
        return ""
    return f"; if the {classes} different labels are numbers to predict, use --task regression"


def _split_at_random(count: int, source: str, fractions: Sequence[float], seed: int) -> list[Tensor]:
    sizes = [round(fraction * count) for fraction in fractions]
    if min(*sizes, count - sum(sizes)) < 1:
        raise DataError(
            f"{source}: expected enough samples for one in every part, got {count}; add samples, or change fractions"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    *taken, rest = torch.split(order, [*sizes, count - sum(sizes)])
    return [rest, *taken]
