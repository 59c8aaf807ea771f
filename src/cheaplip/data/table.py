"""The reader of ``.csv`` files: one column is the label, all others are features."""

import csv
import math
from pathlib import Path

import numpy as np

from cheaplip.data.arrays import RawData
from cheaplip.data.checks import refuse_non_finite
from cheaplip.errors import DataError

__all__ = ["read_csv"]

_LABELS = {"classification": "classes", "regression": "numbers to predict"}
_LABEL = {"classification": "class", "regression": "number"}


def read_csv(path: Path, label: str | None, *, task: str) -> RawData:
    """Read the features and the labels of a ``.csv`` file.

    Args:
        path: the file, in UTF-8; its first line names the columns.
        label: the column of the labels. For classification its values are sorted and numbered.
        task: ``classification`` or ``regression``.

    Raises:
        DataError: the file cannot be read, or a cell is not what its column needs; the message names line and column.
    """
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
            f"{path}: expected the name of the column that holds the {_LABELS[task]}; "
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
                f"{path}, line {line}: expected a {_LABEL[task]} in column {label!r}, got an empty cell; fill it in"
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
        return RawData(x, np.array([float(value) for value in labels]), features=tuple(names))
    numbers = {value: number for number, value in enumerate(sorted(set(labels), key=_by_size))}
    y = np.array([numbers[value] for value in labels], dtype=np.int64)
    return RawData(x, y, classes=tuple(numbers), features=tuple(names))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _by_size(value: str) -> tuple[float, str]:
    """Return a key that sorts numbers by size, and everything else after them by alphabet."""
    number = _number(value)
    return (math.inf if number is None or math.isnan(number) else number), value
