"""What every reader returns, and the reader of ``.npz`` files. Values are checked later, in ``checks.py``."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cheaplip.errors import DataError

__all__ = ["RawData", "read_npz"]


class RawData(NamedTuple):
    """Inputs and labels as a source holds them, before any check.

    Attributes:
        x, y: inputs and labels, arrays or anything that numpy can turn into arrays.
        classes, features: names of the classes and of the features; empty where the source has none.
    """

    x: Any
    y: Any
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


def read_npz(path: Path) -> RawData:
    """Read the arrays x and y of a ``.npz`` file.

    Raises:
        DataError: the file cannot be read, or lacks one of the arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = {"x", "y"} - set(arrays.files)
            if not missing:
                return RawData(arrays["x"], arrays["y"])
            keys = ", ".join(arrays.files) or "none"
    except Exception as error:  # a damaged archive may raise almost anything
        raise DataError(
            f"{path}: cannot be read: {error}; expected arrays of numbers, written by np.savez(path, x=x, y=y)"
        ) from error
    raise DataError(f"{path}: expected arrays named x and y, got {keys}; write them with np.savez(path, x=x, y=y)")
