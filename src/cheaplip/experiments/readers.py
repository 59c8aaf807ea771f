"""Inputs and labels from ``.npz`` files, ``.csv`` files and functions, as they come: checked no further than that."""

import csv
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cheaplip.experiments.idx import DataError

__all__ = ["Raw", "call", "read_csv", "read_npz", "refuse_non_finite"]


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


def read_csv(path: Path, label: str | None, *, task: str) -> Raw:
    """The features of a ``.csv`` file, and what the column ``label`` holds: numbers, or classes, which are numbered."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            columns = [cell.strip() for cell in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}; expected comma-separated text in UTF-8") from error
    listed = (", ".join(columns[:10]) or "none") + (f", … ({len(columns)} columns)" if len(columns) > 10 else "")
    if label is None:
        raise DataError(
            f"{path}: expected the name of the column that holds the {_HELD[task]}; "
            f"choose one with label=, --label on the command line: {listed}"
        )
    if columns.count(label) != 1:
        raise DataError(f"{path}: expected one column {label!r} in the first line, got the columns {listed}")
    at = columns.index(label)
    names = columns[:at] + columns[at + 1 :]
    features, labels = [], []
    for line, row in rows:
        if len(row) != len(columns):
            raise DataError(f"{path}, line {line}: expected {len(columns)} cells, as in the first line, got {len(row)}")
        labels.append(row.pop(at).strip())
        if not labels[-1]:
            raise DataError(
                f"{path}, line {line}: expected a {_HELD_ONE[task]} in column {label!r}, got an empty cell; fill it in"
            )
        if task == "regression" and _number(labels[-1]) is None:
            raise DataError(
                f"{path}, line {line}, column {label!r}: expected a number, for --task regression, got {labels[-1]!r}; "
                "fill it in, or leave --task regression out"
            )
        features.append([_number(cell) for cell in row])
        if None in features[-1]:
            wrong = features[-1].index(None)
            raise DataError(
                f"{path}, line {line}, column {names[wrong]!r}: expected a number, got {row[wrong]!r}; "
                "encode or drop the column"
            )
    x = np.array(features, dtype=np.float64).reshape(len(rows), len(names))
    refuse_non_finite(x, str(path), lambda row, column: f"line {rows[row][0]}, column {names[column]!r}")
    if task == "regression":
        return Raw(x, np.array([float(value) for value in labels]), features=tuple(names))
    numbers = {value: number for number, value in enumerate(sorted(set(labels), key=_by_size))}
    y = np.array([numbers[value] for value in labels], dtype=np.int64)
    return Raw(x, y, classes=tuple(numbers), features=tuple(names))


_HELD = {"classification": "classes", "regression": "numbers to predict"}
_HELD_ONE = {"classification": "class", "regression": "number"}


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _by_size(value: str) -> tuple[float, str]:
    """Sorts numbers by size, before anything else."""
    number = _number(value)
    return (math.inf if number is None or math.isnan(number) else number), value


def call(source: str) -> Any:
    """What ``package.module:function`` returns."""
    module, _, name = source.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing a user's module may raise anything
        raise DataError(
            f"cannot import {source!r}: {error}; expected package.module:function, "
            "installed or importable from the current folder"
        ) from error
    else:
        try:
            return function()
        except Exception as error:
            raise DataError(
                f"{source} raised {type(error).__name__}: {error}; it is called without arguments"
            ) from error
    finally:
        sys.path.remove(here)


def refuse_non_finite(x: NDArray[Any], source: str, place: Callable[..., str]) -> None:
    """Raise, naming the first place, if a number is NaN or infinite."""
    bad = ~np.isfinite(x)
    if bad.any():
        first = np.unravel_index(int(bad.argmax()), bad.shape)
        raise DataError(
            f"{source}: expected finite numbers, got NaN or Inf in {bad.sum()} of {x.size} places, the first at "
            f"{place(*map(int, first))}; fill them in, or drop the rows"
        )
