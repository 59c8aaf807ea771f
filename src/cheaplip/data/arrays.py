"""What every reader returns, and the reader of ``.npz`` files. Values are checked later, in ``checks.py``."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.tables.columns import Column
from cheaplip.errors import DataError

__all__ = ["PARTS", "RawData", "npz_pairs", "read_npz"]

PARTS = ("train", "validation", "test")
"""The parts of a data set, in this order."""

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "validation"
)
_PAIRS = (
    *(("x", "y"), ("data", "target"), ("data", "targets"), ("data", "labels"), ("data", "label"), ("images", "labels")),
    *(("image", "label"), ("imgs", "labels"), ("features", "labels"), ("features", "target"), ("features", "targets")),
    *(("inputs", "targets"), ("inputs", "labels"), ("arr_0", "arr_1")),
)


class RawData(NamedTuple):
    """Inputs and labels as a source holds them, before any check.

    Attributes:
        x, y: inputs and labels, arrays or anything that numpy can turn into arrays. A table has no x.
        columns: the columns of a table, which are yet to be encoded. None: not a table.
        classes: names of the classes; empty where the source has none.
        parts: the part that each row is given to, as its place in ``PARTS``. None: the source does not say.
        notes: how the source was read, where that is not the usual way.
        place: from a row to the words for its place in the source. None: its number.
        pixels: whether each input is an image whose values are brightnesses.
    """

    x: Any
    y: Any
    columns: Sequence[Column] | None = None
    classes: tuple[str, ...] = ()
    parts: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    place: Callable[[int], str] | None = None
    pixels: bool = False


def npz_pairs(
    path: Path, choose: Callable[[Sequence[str]], Mapping[str, tuple[str, str]]], *, remedy: str
) -> tuple[list[str], dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Read pairs of arrays from a ``.npz`` file.

    Args:
        path: the file.
        choose: a function from the names of its arrays to the two names of each part's.
        remedy: what to do about a file that cannot be read, for the message.

    Returns:
        The names of all arrays, and the pairs of each part whose two arrays are there.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            held = list(arrays.files)
            pairs = {part: pair for part, pair in choose(held).items() if set(pair) <= set(held)}
            return held, {part: (arrays[x], arrays[y]) for part, (x, y) in pairs.items()}
    except Exception as error:  # a damaged archive may raise almost anything
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}; {remedy}") from error


def read_npz(path: Path) -> RawData:
    """Read the inputs and the labels of a ``.npz`` file.

    Arrays x and y, or one of the other usual pairs of names, such as data and target; or such a pair for each part, as
    in x_train, y_train, x_test, y_test. Labels of shape (N, 1) are read as (N,). Colour images (N, H, W, 3) are turned
    to (N, 3, H, W).

    Raises:
        DataError: the file cannot be read, or lacks one of the arrays.
    """
    remedy = "expected arrays of numbers, written by np.savez(path, x=x, y=y)"
    held, found = npz_pairs(path, _find_pairs, remedy=remedy)
    keys = ", ".join(held) or "none"
    if not found:
        raise DataError(f"{path}: expected arrays named x and y, got {keys}; write them with np.savez(path, x=x, y=y)")
    named = ", ".join(f"{x} and {y}" for x, y in _find_pairs(held).values())
    notes = () if set(found) == {""} and keys in ("x, y", "y, x") else (f"arrays {named}",)
    for (x, y), (x_name, _) in zip(found.values(), _find_pairs(held).values(), strict=True):
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
    return RawData(x, y, parts=parts, notes=notes)


def _find_pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the names of inputs and labels for each part, or for the part ``""`` where there is one pair for all."""
    roles = {pair: number for number, pair in enumerate(_PAIRS)}
    read: dict[str, dict[str, str]] = {}
    for name in names:
        for part, role in _readings(name):
            read.setdefault(part, {}).setdefault(role, name)
    found = {}
    for part, known in read.items():
        pairs = [pair for pair in roles if set(pair) <= set(known)]
        if pairs:
            found[part] = (known[pairs[0][0]], known[pairs[0][1]])
    if "train" in found and ("test" in found or "validation" in found):
        return {part: found[part] for part in PARTS if part in found}
    return {"": found[""]} if "" in found else {}


def _readings(name: str) -> Iterator[tuple[str, str]]:
    """Return the part and the role that a name speaks of: x_train, trainX, test_labels, X."""
    yield "", name.lower()
    words = re.split(r"[_\-. ]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if len(words) == 2:
        for part, role in (words, words[::-1]):
            if part in _PARTS:
                yield _PARTS[part], role
    joined = re.fullmatch(r"(x|y)(tr|te|train|test|val)|(train|test|val)(x|y)", name.lower())
    if joined:
        part = {"tr": "train", "te": "test"}.get(joined[2], joined[2]) or joined[3]
        yield _PARTS[part], joined[1] or joined[4]
