"""The reader of CSV files: a byte order mark is ignored; messages about bad files name line and column."""

from pathlib import Path

import pytest

from cheaplip.data import load
from data_files import refuses, save_csv

LINES = ["size,weight,kind", *(f"{i},{i / 2},{'ab'[i % 2]}" for i in range(12))]
ABOVE_2, ABOVE_4 = (f"but 'kind' is in line {line}: remove the lines above it" for line in (2, 4))


def with_line(number: int, line: str) -> str:
    return "\n".join([*LINES[: number - 1], line, *LINES[number:]])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        pytest.param(
            with_line(1, LINES[0]),
            None,
            "expected the name of the column that holds the classes; "
            "choose one with label=, --label on the command line: size, weight, kind",
            id="no label",
        ),
        pytest.param(
            with_line(1, LINES[0]),
            "sort",
            "expected one column 'sort' in the first line, got the columns size, weight, kind",
            id="unknown label",
        ),
        pytest.param(
            with_line(1, "kind,weight,kind"),
            "kind",
            "expected one column 'kind' in the first line, got the columns kind, weight, kind",
            id="label twice",
        ),
        pytest.param(
            ",".join(map(str, range(30))),
            "y",
            "got the columns 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (30 columns)",
            id="long header",
        ),
        pytest.param(
            "",
            "kind",
            "expected the names of the columns in the first line, but the file is empty; save the table again",
            id="empty",
        ),
        pytest.param("", None, "but the file is empty; save the table again", id="empty, no label"),
        pytest.param("\n \n,,\n", "kind", "but the file is empty; save the table again", id="blank"),
        pytest.param("sep=;\n", "kind", "but the file is empty; save the table again", id="a separator alone"),
        pytest.param(
            "\n".join(["Laboratory", "2024-01-31", "", *LINES]), "kind", f"first line, {ABOVE_4}", id="titles"
        ),
        pytest.param("\n".join(["Laboratory of C", *LINES]), "kind", f"first line, {ABOVE_2}", id="title of words"),
        pytest.param("\n".join(["Samples, all", *LINES]), "kind", f"first line, {ABOVE_2}", id="title with a comma"),
        pytest.param("\n".join(["Samples,,", *LINES]), "kind", f"first line, {ABOVE_2}", id="title, all cells"),
        pytest.param(
            "\n".join(["sep=;", "Samples", *LINES]).replace(",", ";"),
            "kind",
            "but 'kind' is in line 3: remove the lines above it",
            id="title after the separator",
        ),
        pytest.param(
            "\n".join(["Samples", *LINES]),
            None,
            ", line 2: expected 1 cell, as in the first line, got 3; if lines stand above the names of the columns, "
            "remove them",
            id="title, no label",
        ),
        pytest.param(
            "\n".join(["Samples", *LINES]),
            "sort",
            "got 3; if lines stand above the names of the",
            id="title, other label",
        ),
        pytest.param(
            with_line(1, "size,weight,sort"),
            "a",
            "expected one column 'a' in the first line, got the columns size, weight, sort",
            id="a class for its column",
        ),
        pytest.param(
            LINES[0],
            "kind",
            "expected rows below the names of the columns, got none",
            id="header only",
        ),
        pytest.param(
            with_line(5, "1,2"), "kind", ", line 5: expected 3 cells, as in the first line, got 2", id="short line"
        ),
        pytest.param(
            with_line(5, "1,2,a,4"), "kind", ", line 5: expected 3 cells, as in the first line, got 4", id="long line"
        ),
        pytest.param(
            with_line(5, "1,big,a"),
            "kind",
            ", line 5, column 'weight': expected a number, as in most rows, got 'big'; encode the column, or ",
            id="word",
        ),
        pytest.param(
            with_line(5, "1,inf,a"),
            "kind",
            "got NaN or Inf in 1 of 24 places, the first at line 5, column 'weight'",
            id="infinity",
        ),
        pytest.param(
            with_line(5, "1,2, "),
            "kind",
            ", line 5: expected a class in column 'kind', got an empty cell; fill it in",
            id="empty label",
        ),
        pytest.param(
            with_line(5, "\n1,1e999,a"),
            "kind",
            "got NaN or Inf in 1 of 24 places, the first at line 6, column 'weight'",
            id="too large, after a blank line",
        ),
        pytest.param(
            with_line(5, "1,2,c"),
            "kind",
            "expected at least 3 samples of every class, one for each part of the split, got 1 of class 'c'",
            id="single sample",
        ),
    ],
)
def test_a_csv_that_cannot_be_used(text: str, label: str | None, message: str, tmp_path: Path) -> None:
    source = save_csv(tmp_path, text)
    with refuses(message) as caught:
        load(source, label=label)
    assert str(caught.value).startswith(source)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    source = save_csv(tmp_path, "\ufeffkind,size\n" + "a,1\nb,2\n" * 10)
    assert load(source, label="kind").classes == 2


def test_a_csv_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with refuses(f"{path}: cannot be read: 'utf-8' codec can't decode byte 0xff"):
        load(str(path), label="b")
