"""Inputs and labels as they come from a ``.npz`` file or a function, checked no further than that."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cheaplip.errors import DataError

__all__ = ["Raw", "read_npz"]


class Raw(NamedTuple):
    """Inputs and labels as they come, unchecked, with the names of classes and features where the source has them."""

    x: Any
    y: Any
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


def read_npz(path: Path) -> Raw:
    """The arrays x and y of a ``.npz`` file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = {"x", "y"} - set(arrays.files)
            if not missing:
                return Raw(arrays["x"], arrays["y"])
            keys = ", ".join(arrays.files) or "none"
    except Exception as error:  # a damaged archive may raise almost anything
        raise DataError(
            f"{path}: cannot be read: {error}; expected arrays of numbers, written by np.savez(path, x=x, y=y)"
        ) from error
    raise DataError(f"{path}: expected arrays named x and y, got {keys}; write them with np.savez(path, x=x, y=y)")
