"""``certified.csv``: what is certified of each test input, written and read.

For classification a row is an input: its index, label, prediction, and the radius within which the prediction stays the
same (0: nothing is certified). For regression a row is one output of an input: its label, its prediction, and the
interval ``low@ε``, ``high@ε`` that the prediction stays in, for each ε.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cheaplip.errors import RunError

__all__ = ["difference", "read_intervals", "read_radii", "write_intervals", "write_radii"]

_ROUNDING = 1e-9  # relative, and absolute below 1: what other hardware may compute differently


def write_radii(y: Tensor, prediction: Tensor, radius: Tensor) -> str:
    """Write the table of a classification.

    Args:
        y, prediction: true and predicted classes, (N,).
        radius: certified radii, (N,).
    """
    rows = zip(y.tolist(), prediction.tolist(), radius.tolist(), strict=True)
    return _write(["index", "label", "prediction", "radius"], [[index, *row] for index, row in enumerate(rows)])


def read_radii(table: str) -> list[tuple[bool, float]]:
    """Read the table of a classification: for each input, whether the prediction is right, and its certified radius.

    Args:
        table: the content of ``certified.csv``; "" where nothing is certified.

    Raises:
        RunError: the table is broken.
    """
    try:
        return [(row["label"] == row["prediction"], float(row["radius"])) for row in _read(table)]
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(error) from error


def write_intervals(y: Tensor, prediction: Tensor, intervals: Sequence[tuple[float, Tensor, Tensor]]) -> str:
    """Write the table of a regression.

    Args:
        y, prediction: labels and predictions, (N, k).
        intervals: for each ε: ε, and the lower and upper ends of the intervals, (N, k).
    """
    names = [name for epsilon, _, _ in intervals for name in (f"low@{epsilon}", f"high@{epsilon}")]
    ends = [end for _, low, high in intervals for end in (low, high)]
    rows = [
        [index, output, *(float(values[index, output]) for values in (y, prediction, *ends))]
        for index in range(y.shape[0])
        for output in range(y.shape[1])
    ]
    return _write(["index", "output", "label", "prediction", *names], rows)


def read_intervals(table: str) -> list[dict[float, float]]:
    """Read the table of a regression: for each input, the largest mean squared error within each ε.

    Args:
        table: the content of ``certified.csv``; "" where nothing is certified.

    Raises:
        RunError: the table is broken.
    """
    found: dict[str, dict[float, list[float]]] = {}
    try:
        for row in _read(table):
            errors, label = found.setdefault(row["index"], {}), float(row["label"])
            for name in row:
                if name.startswith("low@"):
                    worst = max(float(row[f"high@{name[4:]}"]) - label, label - float(row[name]))
                    errors.setdefault(float(name[4:]), []).append(worst**2)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(error) from error
    return [{epsilon: sum(several) / len(several) for epsilon, several in row.items()} for row in found.values()]


def difference(table: str, expected: str) -> str:
    """Say where a table differs from what it should be, by more than another machine's rounding; "" if nowhere.

    Args:
        table: the content of ``certified.csv``.
        expected: what it should be.
    """
    try:
        rows = list(csv.reader(io.StringIO(table), strict=True))
    except csv.Error as error:
        return f"it cannot be read ({error})"
    wanted = list(csv.reader(io.StringIO(expected)))
    if rows[:1] != wanted[:1]:
        return f"expected the columns {', '.join(wanted[0])}, got {_shown(', '.join(rows[0]) if rows else '')}"
    if len(rows) != len(wanted) or _write(rows[0], rows[1:]) != table:
        return f"expected {len(wanted) - 1} rows as 'cheaplip certify' writes them, got {len(rows) - 1} or another form"
    for number, (row, right) in enumerate(zip(rows, wanted, strict=True)):
        if row == right:
            continue
        if len(row) != len(right):
            return f"line {number + 1}: expected {len(right)} cells, got {len(row)}"
        tied = rows[0][-1] == "radius" and _near(row[-1], right[-1]) and _near(right[-1], "0.0")
        for name, cell, value in zip(rows[0], row, right, strict=True):
            if not (_near(cell, value) or (tied and name == "prediction" and cell.isdecimal())):
                return f"line {number + 1}, {name}: it says {_shown(cell)}, here it is {value}"
    return ""


def _near(cell: str, value: str) -> bool:
    if cell == value:
        return True
    try:
        number = float(cell)
        return cell == str(number) and math.isclose(number, float(value), rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    except ValueError:
        return False


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _write(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return file.getvalue()


def _read(table: str) -> "csv.DictReader[str]":
    return csv.DictReader(io.StringIO(table))


def _broken(error: Exception) -> RunError:
    return RunError(f"certified.csv cannot be read: {error}; write it again with 'cheaplip certify'")
