"""The range of values: which numbers an array's values come from, and how they are read as 0 to 1."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cheaplip.errors import CheaplipWarning, DataError

__all__ = ["find_range", "looks_like_images", "lossy", "refuse_outside", "warn_of_rounding"]

_TOPS = (1, 255, 1023, 4095, 16383, 65535)  # of 1, 8, 10, 12, 14 and 16 bits
_DARK = 31  # a whole set of bytes below this comes from another scale than 0 to 255
_SIDE = 8  # pixels of the smallest image
_FLAT = 64  # features from which rows of numbers up to 255 are taken for images
_LOSS = 0.01  # of a feature's standard deviation, that rounding to float32 may take


def find_range(x: NDArray[Any], *, pixels: bool) -> tuple[float, float] | None:
    r"""Find the range that values come from, if they are brightnesses of images.

    Args:
        x: inputs, (N, \*shape).
        pixels: whether they are known to be images. Otherwise bytes are, and numbers that look like them: see
            :func:`looks_like_images`.

    Returns:
        The smallest and the largest value, read as 0 and 1. None: values are taken as they are.
    """
    if x.dtype == np.bool_ or x.size == 0:
        return None
    low, high = float(x.min()), float(x.max())
    if not (pixels or x.dtype == np.uint8 or looks_like_images(x)) or low < 0 or high <= 1:
        return None
    if x.dtype == np.uint8 and high <= _DARK and not pixels:
        return 0.0, high
    return next(((0.0, float(top)) for top in _TOPS if high <= top), (0.0, high))


def looks_like_images(x: NDArray[Any]) -> bool:
    r"""Return whether inputs (N, \*shape) look like images of brightnesses 0 to 255 or more, in any type."""
    if x.dtype == np.uint16 and x.ndim > 2:
        return True
    shaped = (x.ndim == 3 and min(x.shape[1:]) >= _SIDE) or (
        x.ndim == 4 and (x.shape[1] in (1, 3) and min(x.shape[2:]) >= _SIDE)
    )
    flat = x.ndim == 2 and x.shape[1] >= _FLAT
    low, high = float(x.min()), float(x.max())
    if not (shaped or flat) or low < 0 or high > 255 or high <= _DARK:
        return False
    return high >= 250 or (shaped and bool((x == np.floor(x)).all()))


def refuse_outside(x: NDArray[Any], bounds: tuple[float, float], source: str) -> None:
    """Raise a :class:`DataError` if a value lies outside the range that the user named."""
    low, high = bounds
    if x.size and (x.min() < low or x.max() > high):
        raise DataError(
            f"{source}: expected values from {low:g} to {high:g}, as --range says, got {x.min():g} to {x.max():g}; "
            "name the range that holds them"
        )


def warn_of_rounding(x: NDArray[Any], names: tuple[str, ...], source: str) -> None:
    r"""Warn of a feature whose differences are lost in float32, as those of unix seconds are.

    Args:
        x: inputs (N, \*shape) that are not scaled.
        names: the features' names; empty where they have none.
        source: where they come from, for the message.
    """
    lost = lossy(x)
    if lost.any():
        first = int(lost.argmax())
        name = f"{first} (counted from 0{f'; {names[first]!r}' if names else ''})"
        warnings.warn(
            f"{source}: feature {name} has values so large that their differences are lost in float32, in which "
            "networks compute; subtract its smallest value, or use --scaling standard",
            CheaplipWarning,
            stacklevel=4,
        )


def lossy(x: NDArray[Any]) -> NDArray[np.bool_]:
    r"""Return for each feature of inputs (N, \*shape) whether rounding to float32 loses much of its differences."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    error = np.abs(flat - flat.astype(np.float32)).max(axis=0)
    return np.asarray(error > _LOSS * flat.std(axis=0))
