"""How the numbers of a table are written: with a decimal point or comma, with or without separated thousands."""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import TypeGuard

from cheaplip.errors import DataError

__all__ = ["MISSING", "Category", "Missing", "find_decimal", "is_missing", "parse_exact", "parse_number"]

MISSING = frozenset(
    {
        *("", "?", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "NaT"),
    }
)
"""Cells that stand for a missing value: those of pandas, and the question mark of the UCI archive."""

_GAP = "[ \u00a0\u2009\u202f'’]"  # between thousands, in French and Swiss files
_END = r"(?:[eE][+-]?\d+)?"
_NUMBER_LIKE = re.compile(rf"[+-]?(?:\d|[.,]|{_GAP}(?=\d{{3}}))+{_END}")
_COMMA = re.compile(rf"[+-]?(?:\d{{1,3}}(?:\.\d{{3}})+|\d*),\d+{_END}")
_POINT = re.compile(rf"[+-]?(?:\d{{1,3}}(?:,\d{{3}})+|\d*)\.\d+{_END}")
_COMMA_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_POINT_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+")
_GAPS = re.compile(rf"(?<=\d){_GAP}(?=\d{{3}}(?!\d))")


class Category(str):
    """A text that is no number, even if it looks like one."""

    __slots__ = ()


class Missing(str):
    """A text or number that stands for a missing value, as the user says."""

    __slots__ = ()


def is_missing(cell: object) -> bool:
    """Return whether a cell stands for a missing value."""
    return (
        cell is None or isinstance(cell, Missing) or cell != cell or (isinstance(cell, str) and cell.strip() in MISSING)
    )


def find_decimal(columns: Iterable[Iterable[object]], source: str) -> str:
    """Return the character before a table's decimals.

    Columns of numbers show it; if none does, those whose cells are all numbers but for one text, such as ``k.A.``.

    Args:
        columns: the cells of each column.
        source: where they come from, for messages.

    Raises:
        DataError: some numbers have a decimal point and others a decimal comma, or each comma may be either.
    """
    clean: list[str] = []
    mixed: list[str] = []
    for column in columns:
        texts = [_ungapped(cell) for cell in column if _is_text(cell) and not is_missing(cell)]
        numbers = [text for text in texts if _NUMBER_LIKE.fullmatch(text)]
        if len(numbers) == len(texts):
            clean += numbers
        elif len(numbers) * 2 >= len(texts) and len(set(texts) - set(numbers)) == 1:
            mixed += numbers
    comma, point, thousands = _decimals(clean)
    if not (comma or point or thousands):
        comma, point, thousands = _decimals(mixed)
    choose = "say which it is with decimal=, --decimal on the command line: , or ."
    if comma and point:
        raise DataError(
            f"{source}: expected numbers with a decimal point or with a decimal comma, got {point} and {comma}; "
            f"{choose}"
        )
    if thousands and not comma and not point:
        raise DataError(
            f"{source}: expected numbers of one meaning, got {thousands}, whose comma may stand before decimals or "
            f"between thousands; {choose}"
        )
    return "," if comma else "."


def _decimals(texts: Iterable[str]) -> tuple[str, str, str]:
    """Return the first text with a decimal comma, with a decimal point, and with a comma that may be either; or ""."""
    comma = point = thousands = ""
    for text in texts:
        if "," in text and _COMMA_THOUSANDS.fullmatch(text):
            thousands = thousands or text
        elif "," in text and _COMMA.fullmatch(text):
            comma = comma or text
        elif "." in text and _POINT.fullmatch(text) and not _POINT_THOUSANDS.fullmatch(text):
            point = point or text
    return comma, point, thousands


def parse_number(cell: object, decimal: str = ".") -> float | None:
    """Return the number that a cell holds; None if it holds none."""
    if isinstance(cell, (Category, Missing)):
        return None
    if not isinstance(cell, str):
        return float(cell) if isinstance(cell, (int, float, Decimal)) else None
    try:
        return float(_plain(cell, decimal))
    except ValueError:
        return None


def parse_exact(cell: str, decimal: str = ".") -> Decimal | None:
    """Return the number that a cell holds, without rounding; None if it holds none, or no finite one."""
    try:
        number = Decimal(_plain(cell, decimal))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _plain(cell: str, decimal: str) -> str:
    """Write a number with a decimal point alone; what is no number stays no number."""
    text = _ungapped(cell)
    if decimal == ",":
        if "." in text and not re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?", text):
            return "no decimal comma"
        return text.replace(".", "").replace(",", ".")
    return text.replace(",", "") if re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", text) else text


def _is_text(cell: object) -> TypeGuard[str]:
    return isinstance(cell, str) and not isinstance(cell, Category)


def _ungapped(cell: str) -> str:
    return _GAPS.sub("", cell.strip().replace("\u2212", "-"))
