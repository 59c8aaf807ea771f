"""What each column of a table holds: numbers or categories. Columns that can't be inputs are left out or refused."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cheaplip.data.tables.numbers import is_missing, parse_number
from cheaplip.errors import CheaplipWarning, DataError

__all__ = ["Column", "is_row_number", "read_columns", "unique_names", "warn_of_similar"]

_MOST_CATEGORIES = 1000
_MISSING_AMONG_NUMBERS = frozenset((".", "-", "--"))
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?"
)
_WITH_UNIT = re.compile(r"[$€£¥]?\s*[+-]?\d[\d.,]*\s*(%|[$€£¥])|[$€£¥]\s*[+-]?\d[\d.,]*")
_TRUTH = {"true": 1.0, "false": 0.0}
_ROW_NUMBERS = re.compile(
    r"index|idx|nr\.?|no\.?|#|row([ _.]?(names?|id|nr|number))?|(.*[ _])?id|unnamed: ?\d+", re.IGNORECASE
)


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: its name.
        values: numbers, or for ``categories`` texts; None where a value is missing.
        categories: whether the values are texts, of a few kinds.
    """

    name: str
    values: list[float | None] | list[str | None]
    categories: bool


def read_columns(
    names: Sequence[str], cells: Sequence[Sequence[object]], *, source: str, place: Callable[[int], str], decimal: str
) -> tuple[list[Column], list[str]]:
    """Find out what each column holds.

    Args:
        names: the names of the columns.
        cells: the cells of each column: texts, or the numbers, truth values and dates of a data frame.
        source: where they come from, for messages.
        place: from a row to the words for its place.
        decimal: the character before decimals.

    Returns:
        The columns that can be inputs, and notes about those that are left out: numbers of rows, and empty columns.

    Raises:
        DataError: a column holds dates, free text, amounts with a unit, or numbers and something else.
    """
    found, notes, refused = [], [], defaultdict(list)
    for name, column in zip(names, cells, strict=True):
        present = [cell for cell in column if not is_missing(cell)]
        title = f"column {name!r}" if name else "the first column, which has no name,"
        if column and not present:
            notes.append(f"{title} left out: it is empty".replace(",,", ","))
        elif is_row_number(name, present, decimal):
            notes.append(f"{title} left out: it numbers the rows")
        elif problem := _problem(present, len(column), decimal):
            refused[problem].append(name)
        else:
            found.append(_typed(name, column, present, source, place, decimal))
            if _counts(present, decimal):
                notes.append(f"{title} kept, though it may number the rows: --drop '{name}' leaves it out")
            if found[-1].categories and len(set(present)) > 2 and (code := _one_word(present, decimal)[0]):
                notes.append(f"{title} read as categories, as {code!r} is no number: --missing '{code}' changes that")
    if refused:
        what = "; ".join(f"{', '.join(map(repr, columns))} {problem}" for problem, columns in refused.items())
        every = ",".join(name for columns in refused.values() for name in columns)
        raise DataError(
            f"{source}: expected columns of numbers or of categories, got {what}: turn them into such, or leave them "
            f"out with drop=, on the command line --drop '{every}'"
        )
    return found, notes


def is_row_number(name: str, present: Sequence[object], decimal: str = ".") -> bool:
    """Return whether a column only numbers or names the rows, judged by its name and its cells."""
    named = not name or re.fullmatch(r"(?i)unnamed: ?\d+", name)
    if not named and not (_ROW_NUMBERS.fullmatch(name) or re.fullmatch(r".*[a-z]I[dD]", name)):
        return False
    if len(present) < 2 or len(set(map(str, present))) < len(present):
        return False
    numbers = [parse_number(cell, decimal) for cell in present]
    if named and all(number is None for number in numbers):
        return True  # the names of rows, as R writes them
    # Without a name, gaps are those of rows that were dropped; with one, every number must be there.
    if named:
        return all(number is not None and number.is_integer() for number in numbers)
    return _counts(present, decimal)


def _counts(present: Sequence[object], decimal: str) -> bool:
    """Return whether cells are whole numbers, each from the smallest to the largest once."""
    numbers = {parse_number(cell, decimal) for cell in present}
    if len(numbers) < max(len(present), 2):
        return False
    whole = [number for number in numbers if number is not None and number.is_integer()]
    return len(whole) == len(present) and max(whole) - min(whole) == len(whole) - 1


def unique_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Number the columns that have the name of an earlier one, as pandas does; return all names, and notes."""
    seen: dict[str, int] = {}
    unique, notes = [], []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(f"{name}.{count}" if count and name else name)
        if count and name:
            notes.append(f"a second column {name!r} read as {unique[-1]!r}")
    return unique, notes


def warn_of_similar(values: Sequence[str], where: str, what: str) -> None:
    """Warn of texts that differ in case or blanks alone.

    Args:
        values: different texts.
        where: where they come from.
        what: what each of them counts as, such as ``class``.
    """
    groups = defaultdict(list)
    for value in values:
        groups["".join(value.casefold().split())].append(value)
    for alike in groups.values():
        if len(alike) > 1:
            warnings.warn(
                f"{where}: {' and '.join(map(repr, alike))} differ in case or blanks only; each is a {what} of its "
                "own: write them alike if they mean the same",
                CheaplipWarning,
                stacklevel=6,
            )


def _typed(
    name: str,
    column: Sequence[object],
    present: Sequence[object],
    source: str,
    place: Callable[[int], str],
    decimal: str,
) -> Column:
    """Return a column of numbers, or else one of categories."""
    texts = {cell.strip().lower() for cell in present if isinstance(cell, str)}
    if len(texts) and texts <= set(_TRUTH):
        numbers = [
            _TRUTH[cell.strip().lower()] if isinstance(cell, str) and not is_missing(cell) else None for cell in column
        ]
        return Column(name, numbers, categories=False)
    parsed = [None if is_missing(cell) else parse_number(cell, decimal) for cell in column]
    known = len([number for number in parsed if number is not None])
    if known * 2 < len(present):
        values = [None if is_missing(cell) else str(cell).strip() for cell in column]
        warn_of_similar(
            sorted({value for value in values if value is not None}), f"{source}, column {name!r}", "category"
        )
        return Column(name, values, categories=True)
    for row, (cell, number) in enumerate(zip(column, parsed, strict=True)):
        if number is None and not is_missing(cell) and str(cell).strip() not in _MISSING_AMONG_NUMBERS:
            comma = " with a decimal comma" if decimal == "," else ""
            code, count = _one_word(present, decimal)
            remedy = f" ({count} cells): {_if_missing(code)}; or encode" if code else "; encode"
            raise DataError(
                f"{place(row)}, column {name!r}: expected a number{comma}, as in most rows, got {cell!r}{remedy} the "
                f"column, or leave it out with drop=, on the command line --drop '{name}'"
            )
    return Column(name, parsed, categories=False)


def _one_word(present: Sequence[object], decimal: str) -> tuple[str, int]:
    """Return the one text among the numbers of a column, and in how many cells it is; "" if there is none like that."""
    texts = [str(cell).strip() for cell in present if parse_number(cell, decimal) is None]
    words = Counter(text for text in texts if text not in _MISSING_AMONG_NUMBERS)
    (word, count), *others = words.most_common() or [("", 0)]
    return ("", 0) if others or count < 2 or "," in word or "'" in word else (word, count)


def _if_missing(code: str) -> str:
    return f"if it stands for a missing value, missing='{code}', on the command line --missing '{code}'"


def _problem(present: Sequence[object], rows: int, decimal: str) -> str:
    """Return why a column can be no input; "" if it can."""
    if any(hasattr(cell, "isoformat") or hasattr(cell, "total_seconds") for cell in present):
        return "(dates or times)"
    texts = [cell.strip() for cell in present if isinstance(cell, str)]
    if len(texts) < len(present):
        others = {type(cell).__name__ for cell in present if not isinstance(cell, (str, int, float))}
        return f"(values of type {', '.join(sorted(others))})" if others - {"Decimal"} else ""
    words = [text for text in texts if parse_number(text, decimal) is None and text not in _MISSING_AMONG_NUMBERS]
    if len(words) * 2 <= len(texts):
        return ""
    if all(_DATE.fullmatch(text) for text in words):
        return "(dates or times)"
    if all(_WITH_UNIT.fullmatch(text) for text in words):
        return f"(numbers with a unit, such as {words[0]})"
    different = len(set(texts))
    if different > _MOST_CATEGORIES or different * 2 > rows:
        code, count = _one_word(present, decimal)
        if code:
            return f"({code!r} in {count} of {rows} rows and else numbers: {_if_missing(code)})"
        return f"({different} different texts in {rows} rows)"
    return ""
