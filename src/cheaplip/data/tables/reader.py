"""The reader of tables: one column is the label, all others are features."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cheaplip.data.arrays import RawData
from cheaplip.data.reading import Reading
from cheaplip.data.tables.columns import Column, read_columns, unique_names
from cheaplip.data.tables.labels import number_classes, read_numbers
from cheaplip.data.tables.missing import count_codes, mark_numbers, mark_texts
from cheaplip.data.tables.numbers import Category, find_decimal, is_missing, parse_number
from cheaplip.data.tables.text import read_text
from cheaplip.errors import DataError
from cheaplip.suggestion import did_you_mean

__all__ = ["Known", "is_frame", "read_frame", "read_parquet", "read_table_file"]

_LABELS = {"classification": "classes", "regression": "numbers to predict"}

Known = tuple[Sequence[str], Sequence[str], tuple[str, ...]]
"""What a run knows of its table: the names of its columns, which of them hold categories, and the classes."""


def read_table_file(path: Path, label: str | None, reading: Reading, *, task: str, known: Known | None) -> RawData:
    """Read the features and the labels of a text file such as ``.csv``.

    Args:
        path: the file; its first line names the columns.
        label: the column of the labels. For classification its values are sorted and numbered.
        reading: the separator, the encoding, the character before decimals, columns to leave out, codes of missing
            values.
        task: ``classification`` or ``regression``.
        known: what a run knows of the table. None: everything is found out.

    Raises:
        DataError: the file cannot be read, or a cell is not what its column needs; the message names line and column.
    """
    table = read_text(path, label=label, separator=reading.separator, encoding=reading.encoding)
    cells = [list(column) for column in zip(*table.rows, strict=True)] or [[] for _ in table.names]
    raw = _read(
        str(path), table.names, cells, lambda row: f"{path}, line {table.lines[row]}", label, reading, task, known
    )
    return raw._replace(notes=(*table.notes, *raw.notes))


def read_parquet(path: Path, label: str | None, reading: Reading, *, task: str, known: Known | None) -> RawData:
    """Read the features and the labels of a parquet file, see :func:`read_table_file`.

    Raises:
        DataError: the file cannot be read, or a column cannot be used.
        ImportError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ImportError("parquet files need pyarrow: pip install 'cheaplip[parquet]'") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; expected a parquet file") from error
    names = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]
    cells = [table.column(name) for name in names]
    dictionary = [str(column.type).startswith("dictionary") for column in cells]
    lists = [_named(column.to_pylist(), category) for column, category in zip(cells, dictionary, strict=True)]
    return _read(str(path), names, lists, lambda row: f"{path}, row {row}", label, reading, task, known)


def is_frame(found: object) -> bool:
    """Return whether an object is a data frame of pandas or polars."""
    return _is_lazy(found) or (hasattr(found, "columns") and (hasattr(found, "iloc") or hasattr(found, "get_columns")))


def read_frame(
    frame: Any, source: str, label: str | None, reading: Reading, *, task: str, known: Known | None
) -> RawData:
    """Read the features and the labels of a data frame of pandas or polars, see :func:`read_table_file`.

    The index of a pandas frame is not read.
    """
    frame = frame.collect() if _is_lazy(frame) else frame
    names = [str(name) for name in frame.columns]
    if hasattr(frame, "iloc"):
        series = [frame.iloc[:, number] for number in range(len(names))]
        cells = [_named(one.tolist(), str(one.dtype) == "category") for one in series]
    else:
        cells = [_named(one.to_list(), str(one.dtype) in ("Categorical", "Enum")) for one in frame.get_columns()]
    return _read(source, names, cells, lambda row: f"{source}, row {row}", label, reading, task, known)


def _is_lazy(found: object) -> bool:
    return type(found).__name__ == "LazyFrame" and hasattr(found, "collect")


def _named(cells: list[object], category: bool) -> list[object]:
    """Mark the cells of a data frame's categories as such; leave other cells as they are."""
    return [None if is_missing(cell) else Category(cell) for cell in cells] if category else cells


def _read(
    source: str,
    names: Sequence[str],
    cells: Sequence[Sequence[object]],
    place: Callable[[int], str],
    label: str | None,
    reading: Reading,
    task: str,
    known: Known | None,
) -> RawData:
    if not names:
        raise DataError(f"{source}: expected columns of features and of labels, got none; fill the table")
    listed = ", ".join(names[:10]) + (f", … ({len(names)} columns)" if len(names) > 10 else "")
    if label is None:
        raise DataError(
            f"{source}: expected the name of the column that holds the {_LABELS[task]}; "
            f"choose one with label=, --label on the command line: {listed}"
        )
    if list(names).count(label) != 1:
        hint = did_you_mean(label, names) if list(names).count(label) == 0 else ""
        raise DataError(f"{source}: expected one column {label!r} in the first line, got the columns {listed}{hint}")
    _refuse_data_as_names(names, source)
    names, notes = unique_names(names)
    dropped = set(reading.dropped)
    if unknown := sorted(dropped - set(names)):
        raise DataError(
            f"{source}: drop: expected columns of the table, got {', '.join(map(repr, unknown))}: it has {listed}"
        )
    if label in dropped:
        raise DataError(f"{source}: drop: expected features, got {label!r}, the label's column: leave it out of --drop")
    table = {number: name for number, name in enumerate(names) if name not in dropped and name != label}
    cells = [mark_texts(column, reading.missing) for column in cells] if reading.missing else cells
    decimal = reading.decimal or find_decimal(cells, source)
    if decimal == ",":
        notes.append("decimal comma")
    if reading.missing:
        cells = [mark_numbers(column, reading.missing, decimal) for column in cells]
        kept = [column for name, column in zip(names, cells, strict=True) if name not in dropped]
        notes += count_codes(kept, reading.missing, source, refuse=known is None)
    labels = cells[list(names).index(label)]
    if known is None:
        columns, more = read_columns(
            list(table.values()), [cells[number] for number in table], source=source, place=place, decimal=decimal
        )
        notes += more
    else:
        columns = _known_columns(dict(zip(names, cells, strict=True)), known, source, decimal)
    title = f"column {label!r}"
    if task == "regression":
        y: Any = read_numbers(labels, title, place=place, decimal=decimal, known=known is not None)
        classes: tuple[str, ...] = ()
    else:
        y, classes = number_classes(
            labels, title, source=source, place=place, decimal=decimal, known=None if known is None else known[2]
        )
    return RawData(None, y, columns, classes=classes, notes=tuple(notes), place=place)


def _known_columns(cells: dict[str, Sequence[object]], known: Known, source: str, decimal: str) -> list[Column]:
    """Return the columns that a run was trained on; cells that hold no number count as missing."""
    names, categorical, _ = known
    if absent := [name for name in names if name not in cells]:
        raise DataError(
            f"{source}: expected the columns that the run was trained on, got none named "
            f"{', '.join(map(repr, absent))}; name the file that holds them with --data"
        )
    return [
        Column(name, [None if is_missing(cell) else str(cell).strip() for cell in cells[name]], categories=True)
        if name in categorical
        else Column(name, [_number(cell, decimal) for cell in cells[name]], categories=False)
        for name in names
    ]


def _number(cell: object, decimal: str) -> float | None:
    if is_missing(cell):
        return None
    truth = {"true": 1.0, "false": 0.0}.get(str(cell).strip().lower())
    return parse_number(cell, decimal) if truth is None else truth


def _refuse_data_as_names(names: Sequence[str], source: str) -> None:
    """Refuse a file whose first line seems to be data: numbers alone, which do not count the columns."""
    numbers = [parse_number(name) for name in names]
    if None in numbers or np.array_equal(np.diff(np.array(numbers, dtype=float)), np.ones(len(numbers) - 1)):
        return
    raise DataError(
        f"{source}: expected the names of the columns in the first line, got numbers: {', '.join(names[:5])}; "
        "add a line with names"
    )
