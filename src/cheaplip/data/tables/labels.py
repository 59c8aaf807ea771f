"""Labels: classes, which are numbered, or numbers to predict."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.tables.columns import warn_of_similar
from cheaplip.data.tables.numbers import is_missing, parse_exact, parse_number
from cheaplip.errors import DataError

__all__ = ["UNKNOWN", "number_classes", "read_numbers"]

UNKNOWN = -1
"""The number of a label that is none of the classes of a run."""


def number_classes(
    cells: Sequence[object],
    title: str,
    *,
    source: str,
    place: Callable[[int], str],
    decimal: str,
    known: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the classes in their order: numbers by size, then texts by alphabet. Equal numbers are one class.

    Args:
        cells: the labels.
        title: the words for where they are, such as ``column 'y'``.
        source, place, decimal: as in :func:`cheaplip.data.tables.columns.read_columns`.
        known: the names of the classes of a run. Labels that are none of them, and missing ones, are ``UNKNOWN``. None:
            all labels are classes.

    Returns:
        The number of each row's class, (N,), and the names of the classes.

    Raises:
        DataError: a label is missing.
    """
    if known is not None:
        number_of = {_key(name, decimal): number for number, name in enumerate(known)}
        return np.array([number_of.get(_key(_text(cell), decimal), UNKNOWN) for cell in cells], dtype=np.int64), tuple(
            known
        )
    _refuse_missing(cells, title, place, "a class")
    texts = [_text(cell) for cell in cells]
    spellings = defaultdict(set)
    for text in texts:
        spellings[_key(text, decimal)].add(text)
    names = {key: min(alike, key=lambda text: (len(text), text)) for key, alike in spellings.items()}
    order = sorted(names, key=lambda key: (math.inf if isinstance(key, str) else float(key), names[key]))
    warn_of_similar([key for key in order if isinstance(key, str)], f"{source}, {title}", "class")
    number_of = {key: number for number, key in enumerate(order)}
    y = np.array([number_of[_key(text, decimal)] for text in texts], dtype=np.int64)
    return y, tuple(names[key] for key in order)


def read_numbers(
    cells: Sequence[object], title: str, *, place: Callable[[int], str], decimal: str, known: bool = False
) -> NDArray[np.float64]:
    """Read the numbers to predict.

    Args:
        cells, title, place, decimal: as in :func:`number_classes`.
        known: whether a run knows its rows, so that cells that hold no number may become NaN.

    Returns:
        The numbers, (N,).

    Raises:
        DataError: a cell is missing, or holds no number.
    """
    if not known:
        _refuse_missing(cells, title, place, "a number")
    numbers = [None if is_missing(cell) else parse_number(cell, decimal) for cell in cells]
    for row, number in enumerate(numbers):
        if number is None and not known:
            raise DataError(
                f"{place(row)}, {title}: expected a number, for --task regression, got {cells[row]!r}; "
                "fill it in, or leave --task regression out"
            )
    return np.array([math.nan if number is None else number for number in numbers])


def _refuse_missing(cells: Sequence[object], title: str, place: Callable[[int], str], expected: str) -> None:
    missing = [row for row, cell in enumerate(cells) if is_missing(cell)]
    if missing:
        first = cells[missing[0]]
        got = (
            "an empty cell" if first is None or not str(first).strip() else f"{first}, which stands for a missing value"
        )
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{place(missing[0])}: expected {expected} in {title}, got {got}{more}; fill it in, or drop the row"
        )


def _text(cell: object) -> str:
    """Write a label; a data frame turns whole numbers into floats where one is missing."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _key(text: str, decimal: str) -> str | Decimal:
    """Return what a class is known by: the number, or else the text."""
    number = parse_exact(text, decimal)
    return text if number is None else number
