"""From the bytes of a text file to rows of cells: its encoding and its separator are found."""

import csv
import gzip
import io
import re
from pathlib import Path
from typing import NamedTuple

from cheaplip.data.tables.numbers import parse_number
from cheaplip.errors import DataError

__all__ = ["SEPARATORS", "TextTable", "read_text"]

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "blank"}
"""The separators that are looked for, in order of preference."""

_SAMPLE = 1 << 16  # characters from which the separator is found
_TITLES = 50  # lines among which the names of columns are looked for, if they are not in the first
_MARKS = (  # byte order marks; that of UTF-16 begins that of UTF-32
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_OTHER_FILES = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive: save its table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save its table as CSV"),
    (b"PAR1", "a parquet file: let its name end in .parquet"),
    (b"%PDF", "a PDF file: save its table as CSV"),
)


class TextTable(NamedTuple):
    """The cells of a text file.

    Attributes:
        names: the cells of the first line.
        rows: the other lines' cells, as many as there are names.
        lines: the number of each row's line in the file.
        notes: how the file was read, where that is not the usual way.
    """

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    notes: tuple[str, ...]


def read_text(path: Path, *, label: str | None, separator: str | None, encoding: str | None) -> TextTable:
    """Read the cells of a text file, plain or compressed with gzip.

    Args:
        path: the file; its first line names the columns.
        label: the name of a column, which tells a separator from other characters.
        separator: the character between cells. None: the one of ``SEPARATORS`` that fits best.
        encoding: the text's encoding. None: UTF-8, or UTF-16 and UTF-32 where the bytes show it, else Windows-1252.

    Raises:
        DataError: the file cannot be read or is empty, lines stand above the names of the columns, or a line has
            another number of cells than the first.
    """
    notes = []
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}; check the file and its permissions") from error
    text, found = _decode(content, path, encoding)
    if found not in ("utf-8", "utf-8-sig"):
        hint = "" if encoding else ", as it is not UTF-8; --encoding sets another" if found == "cp1252" else ""
        notes.append(f"text in {found}{hint}")
    text = text.rstrip("\x1a").replace("\r\n", "\n").replace("\r", "\n")  # Ctrl-Z ends a file of DOS
    if named := re.match(r"sep=(.)\n", text):  # how Excel names it
        separator, text = separator or named[1], "\n" + text[named.end() :]
    chosen = _find_separator(text, label) if separator is None else _parse_separator(separator)
    if chosen != ",":
        notes.append(f"separator {SEPARATORS.get(chosen, repr(chosen))}")
    try:
        cells = list(_parse(text, chosen))
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read: {error}; expected comma-separated text in UTF-8") from error
    if not cells:
        raise DataError(
            f"{path}: expected the names of the columns in the first line, but the file is empty; save the table again"
        )
    lines, rows = [line for line, _ in cells[1:]], [row for _, row in cells[1:]]
    names = _without_quotes([name.strip() for name in cells[0][1]])
    if label is not None and label not in names and (line := _find_names(text, label)):
        raise DataError(
            f"{path}: expected the names of the columns in the first line, but {label!r} is in line {line}: remove the "
            "lines above it"
        )
    if rows and all(len(row) == len(names) + 1 for row in rows):
        # R leaves the names of rows without a title; some programs end each line with a separator.
        ends = all(not row[-1].strip() for row in rows)
        names = [*names, ""] if ends else ["", *names]
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            others = sum(len(row) != len(names) for row in rows) * 2 > len(rows)
            expected = f"{len(names)} cell{'s'[: len(names) != 1]}"
            raise DataError(
                f"{path}, line {line}: expected {expected}, as in the first line, got {len(row)}"
                f"{'; if lines stand above the names of the columns, remove them' if others else ''}"
            )
    return TextTable(names, rows, lines, tuple(notes))


def _decode(content: bytes, path: Path, encoding: str | None) -> tuple[str, str]:
    """Return the text, and the name of its encoding."""
    for magic, kind in _OTHER_FILES:
        if content.startswith(magic):
            raise DataError(f"{path}: expected text, got {kind}")
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    zeros = content[:_SAMPLE].count(0) > len(content[:_SAMPLE]) / 4
    guess = marked or (("utf-16-le" if content[1:2] == b"\0" else "utf-16-be") if zeros else "utf-8")
    name = encoding or guess
    try:
        text = content.decode(name)
    except LookupError:
        raise DataError(
            f"encoding: expected the name of one, such as utf-8, latin-1 or utf-16, got {encoding!r}"
        ) from None
    except UnicodeDecodeError as error:
        problem = DataError(
            f"{path}: cannot be read: {error}; expected comma-separated text in UTF-8: name the text's own encoding "
            "with encoding=, --encoding on the command line"
        )
        # Two halves of a UTF-16 mark inside a file are no letters of any word.
        if encoding or guess != "utf-8" or b"\xff\xfe" in content or b"\xfe\xff" in content:
            raise problem from error
        try:
            text, name = content.decode("cp1252"), "cp1252"
        except UnicodeDecodeError:
            raise problem from error
    if "\0" in text:
        raise DataError(f"{path}: cannot be read: it holds bytes that are no text; expected comma-separated text")
    return text, name


def _without_quotes(names: list[str]) -> list[str]:
    """Return names without the single quotes that some programs write around each of them."""
    quoted = all(re.fullmatch("'.+'", name) for name in names)
    return [name[1:-1] for name in names] if quoted else names


def _parse_separator(text: str) -> str:
    named = {name: character for character, name in SEPARATORS.items()} | {"\\t": "\t", "space": " "}
    chosen = named.get(text.lower(), text)
    if len(chosen) != 1 or chosen.isalnum() or chosen in '"\n':
        raise DataError(f"separator: expected one character, or one of {', '.join(SEPARATORS.values())}, got {text!r}")
    return chosen


def _find_separator(text: str, label: str | None) -> str:
    """Return the separator with which the first lines look most like a table that has the label's column."""
    sample = text if len(text) <= _SAMPLE else text[:_SAMPLE].rpartition("\n")[0]
    best, best_fit = ",", (False, 0.0, 1)
    for separator in SEPARATORS:
        try:
            rows = [row for _, row in _parse(sample, separator)]
        except csv.Error:
            continue
        if not rows or len(rows[0]) < 2 or (separator == " " and best_fit[2] > 1):
            continue
        names, width = _without_quotes([name.strip() for name in rows[0]]), len(rows[0])
        same = sum(len(row) == width for row in rows) / len(rows)
        fit = (label in names, same, width)
        if fit > best_fit:
            best, best_fit = separator, fit
    return best


def _find_names(text: str, label: str) -> int | None:
    """Return the number of a line further down that names the columns, among them the label's; None if there is none.

    It is among the first lines, and holds different texts, none of them a number.
    """
    sample = "\n".join(text.split("\n")[:_TITLES])
    for separator in SEPARATORS:
        try:
            rows = list(_parse(sample, separator))
        except csv.Error:
            continue
        for line, row in rows[1:]:
            names = [name for name in _without_quotes([cell.strip() for cell in row]) if name]
            words = all(parse_number(name) is None for name in names)
            if label in names and words and len(set(names)) == len(names) > 1:
                return line
    return None


def _parse(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the number and the cells of each line that is not blank."""
    lines = io.StringIO("\n".join(line.strip() for line in text.split("\n")) if separator == " " else text)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
