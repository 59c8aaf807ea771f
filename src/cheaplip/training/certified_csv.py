"""``certified.csv``: what is certified of each test input, written and read.

For classification a row is an input: its index, label, prediction, and the radius within which the prediction stays the
same (0: nothing is certified). For regression a row is one output of an input: its label, its prediction, and the
interval ``low@ε``, ``high@ε`` that the prediction stays in, for each ε.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cheaplip.errors import RunError

__all__ = ["read_intervals", "read_radii", "write_intervals", "write_radii"]


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
