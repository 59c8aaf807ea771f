"""Checks that turn the arrays of a reader into tensors: inputs, classes, numbers to predict."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.errors import DataError

__all__ = [
    "bounding_box",
    "bytes_to_unit_interval",
    "check_array",
    "check_classes",
    "check_numbers",
    "refuse_non_finite",
    "row_and_column",
]


def check_array(values: Any, source: str) -> NDArray[Any]:
    r"""Turn inputs into an array.

    Args:
        values: an array of numbers (N, \*shape), N ≥ 1.
        source: where they come from, for messages.

    Raises:
        DataError: they are no numbers, or have no features.
    """
    x = _to_array(values, source)
    if x.dtype.kind not in "biuf":
        raise DataError(f"{source}: expected x to hold numbers, got {x.dtype}; convert it, for example to float32")
    if x.ndim < 2 or x.size == 0:
        raise DataError(
            f"{source}: expected x of shape (N, *input), with at least one sample and feature, got {x.shape}"
        )
    return x


def check_classes(values: Any, count: int, source: str, names: Sequence[str] = ()) -> Tensor:
    """Turn the labels of a classification into a tensor.

    Args:
        values: an array (N,) that holds every one of the whole numbers 0, 1, …, classes − 1; at least two classes.
        count: N, the number of inputs.
        source: where they come from, for messages.
        names: the classes' names; empty where they have none.

    Returns:
        The classes, (N,), int64.

    Raises:
        DataError: another shape, something else than classes, or a class without a sample.
    """
    y = _to_array(values, source)
    expected = "expected y to hold the classes 0, 1, …, one integer per sample"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{source}: {expected}, got {y.dtype}; number the classes")
    if y.shape != (count,):
        raise DataError(f"{source}: {expected}: shape ({count},) to go with x, got {y.shape}")
    bad = ~((y >= 0) & (y == np.floor(y))) if y.dtype.kind == "f" else y < 0
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{source}: {expected}, got {y[row]} at row {row}; number the classes from 0")
    classes = np.unique(y)
    if len(classes) < 2:
        raise DataError(
            f"{source}: expected at least two classes, got only class {classes[0]}"
            f"{f' ({names[0]!r})' if names else ''}; add the others' samples"
        )
    if classes[-1] != len(classes) - 1:
        gap = int(np.flatnonzero(classes != np.arange(len(classes)))[0])
        raise DataError(
            f"{source}: {expected}, got none of class {gap} and a largest of {classes[-1]}; "
            "number the classes from 0 without gaps"
        )
    return torch.from_numpy(y.astype(np.int64))


def check_numbers(values: Any, count: int, source: str) -> Tensor:
    """Turn the labels of a regression into a tensor.

    Args:
        values: an array of finite numbers, (N,) or (N, k).
        count: N, the number of inputs.
        source: where they come from, for messages.

    Returns:
        The numbers, (N, k), float32; k is 1 for values (N,).

    Raises:
        DataError: another shape, or something else than finite numbers.
    """
    y = _to_array(values, source)
    expected = "expected y to hold numbers, one or several per sample"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{source}: {expected}, got {y.dtype}; convert it, for example to float32")
    if y.shape[:1] != (count,) or y.ndim > 2 or y.size == 0:
        raise DataError(f"{source}: {expected}: shape ({count},) or ({count}, k) to go with x, got {y.shape}")
    with np.errstate(over="ignore"):
        y = y.astype(np.float32).reshape(count, -1)
    refuse_non_finite(y, f"{source}, y", row_and_column)
    return torch.from_numpy(y)


def bounding_box(x: Tensor) -> Box:
    r"""Find the box that inputs lie in.

    Args:
        x: inputs, (N, \*shape).

    Returns:
        [0, 1] if every value lies in it. Otherwise a box of shape \*shape that reaches from the smallest to the largest
        value of each feature; where these two are equal, half a unit further on either side.
    """
    low, high = x.amin(dim=0), x.amax(dim=0)
    if low.min() >= 0 and high.max() <= 1:
        return Box(0.0, 1.0)
    # Next to numbers above 1e7, half a unit would be lost to rounding.
    room = torch.where(low == high, (1e-6 * low.abs()).clamp_min(0.5), 0.0)
    return Box(low - room, high + room)


def bytes_to_unit_interval(x: NDArray[np.uint8]) -> Tensor:
    """Divide bytes by 255, as float32."""
    return torch.from_numpy(np.divide(x, np.float32(255), dtype=np.float32))


def refuse_non_finite(
    x: NDArray[Any], source: str, place: Callable[..., str], remedy: str = "fill them in, or drop the rows"
) -> None:
    """Raise a :class:`DataError` that names the first place where a number is NaN or infinite.

    Args:
        x: the numbers.
        source: where they come from.
        place: from the indices of a number to the words for its place.
        remedy: what to do about it.
    """
    bad = ~np.isfinite(x)
    if bad.any():
        first = np.unravel_index(int(bad.argmax()), bad.shape)
        raise DataError(
            f"{source}: expected finite numbers, got NaN or Inf in {bad.sum()} of {x.size} places, the first at "
            f"{place(*map(int, first))}; {remedy}"
        )


def row_and_column(row: int, *column: int) -> str:
    """Write the place of a number in an array."""
    return f"row {row}, column {', '.join(map(str, column))}"


def _to_array(values: Any, source: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{source}: expected arrays of numbers, each row of the same length: {error}") from error
