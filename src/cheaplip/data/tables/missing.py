"""Codes that stand for a missing value, as the user names them: ``k.A.``, ``-99``."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from cheaplip.data.tables.numbers import Category, Missing, parse_number
from cheaplip.errors import DataError

__all__ = ["count_codes", "mark_numbers", "mark_texts"]


def mark_texts(cells: Iterable[object], codes: Sequence[str]) -> list[object]:
    """Return a column's cells; each that is written like a code is that code, as :class:`Missing`.

    Args:
        cells: of a column.
        codes: what stands for a missing value.
    """
    return [Missing(cell.strip()) if isinstance(cell, str) and cell.strip() in codes else cell for cell in cells]


def mark_numbers(cells: Iterable[object], codes: Sequence[str], decimal: str) -> list[object]:
    """Return a column's cells; each that is the number of a code, as -99.0 is of -99, is that code, as `Missing`.

    Args:
        cells: of a column.
        codes: what stands for a missing value; decimals have a point.
        decimal: the character before the decimals of the cells.
    """
    code_of = {number: code for code in codes if (number := parse_number(code)) is not None}
    if not code_of:
        return list(cells)
    with np.errstate(over="ignore"):  # a column of single precision holds -99.9 as another number
        code_of = {float(np.float32(number)): code for number, code in code_of.items()} | code_of

    def mark(cell: object) -> object:
        if isinstance(cell, (bool, Missing)):
            return cell
        number = parse_number(str(cell)) if isinstance(cell, Category) else parse_number(cell, decimal)
        return cell if number is None or number not in code_of else Missing(code_of[number])

    return [mark(cell) for cell in cells]


def count_codes(columns: Iterable[Sequence[object]], codes: Sequence[str], source: str, *, refuse: bool) -> list[str]:
    """Return a note about the cells that hold a code; none if there are no codes.

    Args:
        columns: the marked cells of each column.
        codes: what stands for a missing value.
        source: where the cells come from, for messages.
        refuse: whether every code must be found.

    Raises:
        DataError: a code is in no cell.
    """
    counts = Counter(str(cell) for cells in columns for cell in cells if isinstance(cell, Missing))
    if refuse and (absent := [code for code in codes if not counts[code]]):
        raise DataError(
            f"{source}: missing: expected codes that cells hold, got {', '.join(map(repr, absent))}, found in none; "
            "check how the file writes them, or leave them out of --missing"
        )
    listed = ", ".join(f"{code!r} ({_cells(counts[code])})" for code in codes if counts[code])
    return [f"missing values: {listed}"] if listed else []


def _cells(count: int) -> str:
    return f"{count} cell{'s'[: count != 1]}"
