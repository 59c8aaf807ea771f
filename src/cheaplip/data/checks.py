"""Arrays as they come, checked and turned into tensors: inputs, classes, numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.errors import DataError

__all__ = ["box", "inputs", "labels", "numbers", "place", "refuse_non_finite", "scaled_bytes"]


def inputs(values: Any, source: str) -> tuple[Tensor, Box]:
    """Finite float32 inputs (N, *shape), and the box they lie in."""
    x = _array(values, source)
    if x.dtype.kind not in "biuf":
        raise DataError(f"{source}: expected x to hold numbers, got {x.dtype}; convert it, for example to float32")
    if x.ndim < 2 or x.size == 0:
        raise DataError(
            f"{source}: expected x of shape (N, *input), with at least one sample and feature, got {x.shape}"
        )
    if x.dtype == np.uint8:
        return scaled_bytes(x), Box(0.0, 1.0)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    refuse_non_finite(x, source, place)
    return torch.from_numpy(x), box(torch.from_numpy(x))


def labels(values: Any, count: int, source: str) -> Tensor:
    """Classes (N,), int64: every one of 0, 1, …, at least two of them."""
    y = _array(values, source)
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
            f"{source}: expected at least two classes, got only class {classes[0]}; add the others' samples"
        )
    if classes[-1] != len(classes) - 1:
        gap = int(np.flatnonzero(classes != np.arange(len(classes)))[0])
        raise DataError(
            f"{source}: {expected}, got none of class {gap} and a largest of {classes[-1]}; "
            "number the classes from 0 without gaps"
        )
    return torch.from_numpy(y.astype(np.int64))


def numbers(values: Any, count: int, source: str) -> Tensor:
    """Numbers (N, k), float32, finite."""
    y = _array(values, source)
    expected = "expected y to hold numbers, one or several per sample"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{source}: {expected}, got {y.dtype}; convert it, for example to float32")
    if y.shape[:1] != (count,) or y.ndim > 2 or y.size == 0:
        raise DataError(f"{source}: {expected}: shape ({count},) or ({count}, k) to go with x, got {y.shape}")
    with np.errstate(over="ignore"):
        y = y.astype(np.float32).reshape(count, -1)
    refuse_non_finite(y, f"{source}, y", place)
    return torch.from_numpy(y)


def box(x: Tensor) -> Box:
    """[0, 1] if that holds every value, else each feature from its smallest to its largest, with room if constant."""
    low, high = x.amin(dim=0), x.amax(dim=0)
    if low.min() >= 0 and high.max() <= 1:
        return Box(0.0, 1.0)
    room = torch.where(low == high, (1e-6 * low.abs()).clamp_min(0.5), 0.0)  # a half is lost beside numbers above 1e7
    return Box(low - room, high + room)


def scaled_bytes(x: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.divide(x, np.float32(255), dtype=np.float32))


def _array(values: Any, source: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{source}: expected arrays of numbers, each row of the same length: {error}") from error


def place(row: int, *column: int) -> str:
    return f"row {row}, column {', '.join(map(str, column))}"


def refuse_non_finite(x: NDArray[Any], source: str, place: Callable[..., str]) -> None:
    """Raise, naming the first place, if a number is NaN or infinite."""
    bad = ~np.isfinite(x)
    if bad.any():
        first = np.unravel_index(int(bad.argmax()), bad.shape)
        raise DataError(
            f"{source}: expected finite numbers, got NaN or Inf in {bad.sum()} of {x.size} places, the first at "
            f"{place(*map(int, first))}; fill them in, or drop the rows"
        )
