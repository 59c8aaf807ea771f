"""The reader of ``.npz`` files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.arrays import PARTS, RawData
from cheaplip.data.npz.names import find_named_pairs, find_pairs, refuse_names
from cheaplip.data.tables.labels import number_classes
from cheaplip.errors import DataError

__all__ = ["npz_pairs", "read_npz"]


def npz_pairs(
    path: Path, choose: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, tuple[str, str]]], *, remedy: str
) -> tuple[list[str], dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Read pairs of arrays from a ``.npz`` file.

    Args:
        path: the file.
        choose: a function from its arrays, which are read when they are looked up, to the two names of each part's.
        remedy: what to do about a file that cannot be read, for the message.

    Returns:
        The names of all arrays, and the pairs of each part whose two arrays are there.

    Raises:
        DataError: the file cannot be read, or ``choose`` says so.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            held = list(arrays.files)
            pairs = {part: pair for part, pair in choose(arrays).items() if set(pair) <= set(held)}
            return held, {part: (arrays[x], arrays[y]) for part, (x, y) in pairs.items()}
    except DataError:
        raise
    except Exception as error:  # a damaged archive may raise almost anything
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}; {remedy}") from error


def read_npz(path: Path, label: str | None, *, task: str, known: Sequence[str] | None) -> RawData:
    """Read the inputs and the labels of a ``.npz`` file.

    Arrays x and y, or one of the other usual pairs of names, such as data and target; or such a pair for each part, as
    in x_train, y_train, x_test, y_test. Labels of shape (N, 1) are read as (N,). Colour images (N, H, W, 3) are turned
    to (N, 3, H, W).

    Args:
        path: the file.
        label: the name of the labels' array. None: one of the usual names.
        task: ``classification`` or ``regression``. Classes that are texts, or whole numbers other than 0, 1, …, are
            sorted and numbered.
        known: the names of the classes of a run; empty where they had none. None: all labels are classes.

    Raises:
        DataError: the file cannot be read, or lacks one of the arrays.
    """
    names: dict[str, tuple[str, str]] = {}

    def choose(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, str]]:
        names.update(find_pairs(list(arrays)) if label is None else find_named_pairs(arrays, label, str(path)))
        return names

    remedy = (
        "expected arrays of numbers, or of texts as labels, which y.astype(str) makes of objects, written by "
        "np.savez(path, x=x, y=y)"
    )
    held, found = npz_pairs(path, choose, remedy=remedy)
    if not found:
        raise refuse_names(held, str(path))
    named = ", ".join(f"{x} and {y}" for x, y in names.values())
    notes = () if named == "x and y" and len(held) == 2 else (f"arrays {named}",)
    for (x, y), (x_name, _) in zip(found.values(), names.values(), strict=True):
        if x.ndim < 1 or y.ndim < 1:
            raise DataError(
                f"{path}: expected x of shape (N, *input) and y of shape (N,), got {named} of shapes {x.shape} and "
                f"{y.shape}"
            )
        if len(x) == 0 and len(found) > 1:
            raise DataError(f"{path}: expected at least one input in each part, got none in {x_name}; leave it out")
        if x.shape[1:] != next(iter(found.values()))[0].shape[1:] or (len(x) != len(y) and len(found) > 1):
            raise DataError(
                f"{path}: expected parts with inputs of one shape and a label for each, got {named} of shapes "
                f"{', '.join(f'{x.shape} and {y.shape}' for x, y in found.values())}"
            )
    x, y = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*found.values(), strict=True))
    parts = None
    if "" not in found:
        parts = np.repeat([PARTS.index(part) for part in found], [len(x) for x, _ in found.values()])
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x, notes = x.transpose(0, 3, 1, 2), (*notes, f"{x.shape[3]} channels moved from last to first")
    classes: tuple[str, ...] = ()
    if task == "classification" and y.ndim == 1 and _are_names(y, known):
        y, classes = number_classes(
            [cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell for cell in y.tolist()],
            f"array {next(iter(names.values()))[1]!r}",
            source=str(path),
            place=lambda row: f"{path}, row {row}",
            decimal=".",
            known=known,
        )
    return RawData(x, y, classes=classes, parts=parts, notes=notes)


def _are_names(y: NDArray[Any], known: Sequence[str] | None) -> bool:
    """Return whether classes are texts, or whole numbers of another kind than 0, 1, …, so that they are names.

    Of negative numbers only −1 beside 1 is a name: others often mark inputs without a label.
    """
    if y.dtype.kind in "US" or known:
        return True
    if known is not None or y.dtype.kind not in "iuf" or not (np.isfinite(y) & (y == np.floor(y))).all():
        return False
    present = np.unique(y)
    if len(present) and present[0] < 0:
        return np.array_equal(present, [-1, 1])
    return not np.array_equal(present, np.arange(len(present)))
