"""Tables as other programs and other countries write them: read as they are meant, or refused in a sentence."""

import gzip

import numpy as np
import pytest
import torch

from cheaplip import CheaplipWarning
from cheaplip.data import Reading, load
from data_files import refuses

RNG = np.random.default_rng(0)
ROWS = [(round(1000 + 10 * a, 3), round(2.5 + b, 3), i % 2) for i, (a, b) in enumerate(RNG.normal(size=(40, 2)))]
WIDE = [row[:2] for row in ROWS]


def table(rows=ROWS, names=("a", "b", "y"), separator=",", ending="\n", write=str):
    lines = [separator.join(names), *(separator.join(map(write, row)) for row in rows)]
    return ending.join(lines) + ending


def comma(value):
    return str(value).replace(".", ",")


def german(value):
    """1.234,5, with a point between thousands."""
    return f"{value:,.3f}".translate(str.maketrans(",.", ".,")) if isinstance(value, float) else str(value)


def quoted(value):
    return f'"{value}"'


def saved(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def everything(data):
    """The inputs of all parts in the units of the file, sorted by the first column."""
    x = torch.cat([data.train.x, data.validation.x, data.test.x]).double()
    x = x if data.standardisation is None else data.standardisation.inverse(x)
    return x[x[:, 0].argsort()].numpy()


EXPECTED = np.array(sorted(WIDE))

SAME = {
    "semicolon": table(separator=";"),
    "tab": table(separator="\t"),
    "pipe": table(separator="|"),
    "blank": table(separator=" "),
    "several blanks": table(separator="   "),
    "comma and blank": table(separator=", "),
    "semicolon, decimal comma": table(separator=";", write=comma),
    "tab, decimal comma": table(separator="\t", write=comma),
    "pipe, decimal comma": table(separator="|", write=comma),
    "decimal comma in quotes": table(write=lambda value: quoted(comma(value))),
    "German thousands": table(separator=";", write=german),
    "English thousands": table(separator=";", write=lambda v: f"{v:,}" if isinstance(v, float) else str(v)),
    "English thousands in quotes": table(write=lambda v: quoted(f"{v:,}") if isinstance(v, float) else str(v)),
    "French thousands": table(separator=";", write=lambda v: comma(f"{v:,}".replace(",", "\u202f"))),
    "Swiss thousands": table(write=lambda v: f"{v:,}".replace(",", "'")),
    "all quoted": table([[quoted(v) for v in row] for row in ROWS]),
    "names quoted": table(names=('"a"', '"b"', '"y"')),
    "single quotes in names": table(names=("a", "b's", "y")),
    "single quotes around names": table(names=("'a'", "'b'", "'y'"), separator=" "),
    "Ctrl-Z at the end, as DOS": table().rstrip("\n") + "\x1a",
    "byte order mark": ("\ufeff" + table()).encode(),
    "UTF-16": table().encode("utf-16"),
    "UTF-16, big endian with mark": b"\xfe\xff" + table().encode("utf-16-be"),
    "UTF-16 without mark": table().encode("utf-16-le"),
    "UTF-16, big endian without mark": table().encode("utf-16-be"),
    "UTF-32": table().encode("utf-32"),
    "UTF-16, tab, as Excel's Unicode text": table(separator="\t").encode("utf-16"),
    "Windows-1252": table(names=("größe", "b", "y")).encode("cp1252"),
    "Latin-1, semicolon": table(names=("température", "b", "y"), separator=";", write=comma).encode("latin-1"),
    "Windows line ends": table(ending="\r\n"),
    "old Mac line ends": table(ending="\r"),
    "no last line end": table().rstrip("\n"),
    "blank lines": table(ending="\n\n"),
    "empty rows at the end": table() + ",,\n,,\n",
    "blanks around": table(names=(" a ", " b", "y ")),
    "names the separator, as Excel": "sep=;\n" + table(separator=";"),
    "separator at each line's end": table(ROWS, ending=",\n"),
    "separator at the end of rows": table([[*row, ""] for row in ROWS]),
    "row names without a title": table([[i + 1, *row] for i, row in enumerate(ROWS)]),
    "row names in words": table([[f"case {i}", *row] for i, row in enumerate(ROWS)]),
    "index": table([[i, *row] for i, row in enumerate(ROWS)], names=("", "a", "b", "y")),
    "index from 1": table([[i + 1, *row] for i, row in enumerate(ROWS)], names=("", "a", "b", "y")),
    "index with gaps": table([[3 * i, *row] for i, row in enumerate(ROWS)], names=("", "a", "b", "y")),
    "index shuffled": table([[i * 7 % 40, *row] for i, row in enumerate(ROWS)], names=("", "a", "b", "y")),
    "index written twice": table(
        [[i, i, *row] for i, row in enumerate(ROWS)], names=("", "Unnamed: 0", "a", "b", "y")
    ),
    "index named": table([[i, *row] for i, row in enumerate(ROWS)], names=("index", "a", "b", "y")),
    "id": table([[i + 100, *row] for i, row in enumerate(ROWS)], names=("id", "a", "b", "y")),
    "PassengerId": table([[i + 1, *row] for i, row in enumerate(ROWS)], names=("PassengerId", "a", "b", "y")),
    "index at the end": table([[*row, i] for i, row in enumerate(ROWS)], names=("a", "b", "y", "row_id")),
    "empty column": table([[row[0], "", *row[1:]] for row in ROWS], names=("a", "void", "b", "y")),
    "numbers in exponents": table(write=lambda v: f"{v:.6e}" if isinstance(v, float) else str(v)),
    "plus signs": table(write=lambda v: f"{v:+}" if isinstance(v, float) else str(v)),
    "true minus": table([[-a, b, y] for a, b, y in ROWS], write=lambda v: str(v).replace("-", "\u2212")),
    "labels 1.0": table([[a, b, float(y)] for a, b, y in ROWS]),
    "labels 1 and 1.0": table([[a, b, y if i % 3 else float(y)] for i, (a, b, y) in enumerate(ROWS)]),
    "labels with blanks": table([[a, b, f" {y} "] for a, b, y in ROWS]),
    "labels 01": table([[a, b, f"0{y}" if i % 3 else y] for i, (a, b, y) in enumerate(ROWS)]),
    "labels with decimal comma": table([[a, b, f"{y},0"] for a, b, y in ROWS], separator=";", write=comma),
}  # fmt: skip


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_one_table_in_many_forms(content, tmp_path):
    data = load(saved(tmp_path, content), label="y")
    wanted = EXPECTED if everything(data)[0, 0] > 0 else np.array(sorted([-a, b] for a, b in WIDE))
    np.testing.assert_allclose(everything(data), wanted, rtol=1e-4)
    assert (data.classes, data.shape) == (2, (2,))
    assert {float(name.replace(",", ".")) for name in data.class_names} == {0, 1}


@pytest.mark.parametrize("name", ["table.tsv", "table.CSV", "table.csv.gz", "table.tsv.gz"])
def test_other_names_of_text_files(name, tmp_path):
    content = table(separator="\t" if "tsv" in name else ",").encode()
    data = load(saved(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name), label="y")
    np.testing.assert_allclose(everything(data), EXPECTED, rtol=1e-4)


TOLD = {
    "separator": (table(separator=";"), "separator semicolon"),
    "decimal comma": (table(separator=";", write=comma), "decimal comma"),
    "encoding": (
        table(names=("größe", "b", "y")).encode("cp1252"),
        "text in cp1252, as it is not UTF-8; --encoding sets",
    ),
    "UTF-16": (table().encode("utf-16"), "text in utf-16"),
    "index": (
        table([[i, *row] for i, row in enumerate(ROWS)], names=("", "a", "b", "y")),
        "the first column, which has no name, left out: it numbers the rows",
    ),
    "id": (
        table([[i, *row] for i, row in enumerate(ROWS)], names=("id", "a", "b", "y")),
        "column 'id' left out: it numbers the rows",
    ),
    "a column that counts": (
        table([[i + 5, *row] for i, row in enumerate(ROWS)], names=("sample", "a", "b", "y")),
        "column 'sample' kept, though it may number the rows: --drop 'sample' leaves it out",
    ),
    "empty column": (
        table([[*row[:2], "", row[2]] for row in ROWS], names=("a", "b", "void", "y")),
        "column 'void' left out: it is empty",
    ),
    "names twice": (table(names=("a", "a", "y")), "a second column 'a' read as 'a.1'"),
    "missing numbers": (
        table([["" if i < 3 else a, b, y] for i, (a, b, y) in enumerate(ROWS)]),
        "3 missing numbers replaced by the training rows' median (a 3)",
    ),
    "missing texts": (
        table([["" if i < 3 else "rb"[i % 3 > 1], b, y] for i, (_, b, y) in enumerate(ROWS)]),
        "3 missing texts taken for a category of their own (a 3)",
    ),
}


@pytest.mark.parametrize(("content", "note"), TOLD.values(), ids=TOLD)
def test_what_was_found_out_is_told(content, note, tmp_path):
    lines = load(saved(tmp_path, content), label="y").recipe.description
    assert len(lines) == 3
    assert lines[1].startswith("read with: ")
    assert note in lines[1]


def test_a_table_is_described(tmp_path):
    source = saved(tmp_path, table())
    assert load(source, label="y").recipe.description == (
        "40 rows, 2 columns of numbers, in standard deviations; 2 classes, 0 50 % / 1 50 %",
        "read with: the usual settings",
        "28 to train on, 4 for validation, 8 for the test: drawn at random with seed 0, in proportion to the classes",
    )


def kinds(*columns, names=None):
    """A table of columns given as functions of the row's number, and of a label."""
    rows = [[*(column(i) for column in columns), i % 2] for i in range(40)]
    return table(rows, names=[*(names or "abcdef"[: len(columns)]), "y"])


def noise(i):
    return ROWS[i][0]


REFUSED = {
    "dates": (kinds(noise, lambda i: f"2024-01-{i % 28 + 1:02}"), "got 'b' (dates or times): turn them"),
    "dates with times": (kinds(noise, lambda i: f"2024-01-02T10:{i:02}:00"), "'b' (dates or times)"),
    "German dates": (kinds(noise, lambda i: f"{i % 28 + 1:02}.01.2024"), "'b' (dates or times)"),
    "American dates": (kinds(noise, lambda i: f"1/{i % 28 + 1}/24"), "'b' (dates or times)"),
    "times": (kinds(noise, lambda i: f"10:{i:02}"), "'b' (dates or times)"),
    "names": (kinds(noise, lambda i: f"person {i}"), "'b' (40 different texts in 40 rows)"),
    "free text": (kinds(noise, lambda i: f"text {i % 30}"), "'b' (30 different texts in 40 rows)"),
    "percent": (kinds(noise, lambda i: f"{i} %"), "'b' (numbers with a unit, such as 0 %)"),
    "dollars": (kinds(noise, lambda i: f"${i}.50"), "'b' (numbers with a unit, such as $0.50)"),
    "euros": (kinds(noise, lambda i: f"{i}.50 €"), "'b' (numbers with a unit, such as 0.50 €)"),
    "several": (
        kinds(lambda i: f"name {i}", lambda i: f"2024-01-{i % 28 + 1:02}", noise),
        "leave them out with drop=, on the command line --drop 'a,b'",
    ),
    "a word": (kinds(noise, lambda i: "big" if i == 9 else i / 2), "line 11, column 'b': expected a number"),
    "a point among decimal commas": (
        table([*ROWS[1:], (1000.5, "3.25", 1)], separator=";", write=lambda v: v if v == "3.25" else comma(v)),
        "expected numbers with a decimal point or with a decimal comma, got 3.25 and",
    ),
    "either thousands or decimals": (
        table([(f"{i + 1},250", i, i % 2) for i in range(40)], separator=";"),
        "got 1,250, whose comma may stand before decimals or between thousands; say which it is with decimal=",
    ),
    "infinity": (kinds(noise, lambda i: "inf" if i == 3 else i / 2), "the first at line 5, column 'b'"),
    "no names": (table(ROWS[1:], names=("1005.5", "2.25", "1")).replace("y", "1"), "expected one column 'y'"),
    "a class for each row": (
        table([(a, i, b) for i, (a, b, _) in enumerate(ROWS)]),
        "if the 40 different labels are numbers to predict, use --task regression",
    ),
    "few rows of a class": (table([*ROWS, (1, 2, "rare")]), "got 1 of class 'rare'; add samples, or drop the class"),
    "index and label alone": (
        table([(i, y) for i, (_, _, y) in enumerate(ROWS)], names=("", "y")),
        "no column is left to learn from (the first column, which has no name, left out: it numbers the rows)",
    ),
    "a workbook": (b"PK\x03\x04" + bytes(40), "expected text, got an Excel workbook or a zip archive: save its table"),
    "an old workbook": (b"\xd0\xcf\x11\xe0" + bytes(40), "expected text, got an old Excel workbook"),
    "parquet": (b"PAR1" + bytes(40), "expected text, got a parquet file: let its name end in .parquet"),
    "no text": (b"a,b,y\n1,\x002,0\n", "it holds bytes that are no text"),
    "a broken encoding": (b"a,b,y\n\x81\x8d,1,1\n", "name the text's own encoding with encoding="),
    "label in other letters": (table(names=("a", "b", "Y")), "got the columns a, b, Y; did you mean 'Y'?"),
    "label misspelt": (table(names=("a", "b", "yy")), "expected one column 'y' in the first line"),
    "other cells": (table() + "1,2\n", "line 42: expected 3 cells, as in the first line, got 2"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_cannot_be_used(content, message, tmp_path):
    with refuses(message) as caught:
        load(saved(tmp_path, content), label="y")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["NA", "N/A", "nan", "NaN", "null", "NULL", "None", "?", "", "<NA>", "#N/A", "NaT"])
def test_a_missing_label_is_refused_by_line(missing, tmp_path):
    rows = [[a, b, missing if i in (6, 9) else ["no", "yes"][y]] for i, (a, b, y) in enumerate(ROWS)]
    got = f"{missing}, which stands for a missing value" if missing else "an empty cell"
    with refuses(f"line 8: expected a class in column 'y', got {got} (and 1 more); fill it in, or drop the row"):
        load(saved(tmp_path, table(rows)), label="y")


@pytest.mark.parametrize("missing", ["NA", "", "n/a", "?", "-", ".", "nan"])
def test_a_missing_number_becomes_the_median_of_the_training_rows(missing, tmp_path):
    rows = [[a, missing if i == 5 else i, y] for i, (a, _, y) in enumerate(ROWS)]
    data = load(saved(tmp_path, table(rows)), label="y")
    filled = set(everything(data)[:, 1].round(4)) - set(map(float, range(40)))
    training = data.standardisation.inverse(data.train.x.double())[:, 1]
    assert data.recipe.encoding.columns[1].median in filled or len(filled) == 0
    assert float(training.median()) <= data.recipe.encoding.columns[1].median + 1


def test_a_missing_number_in_decimal_commas(tmp_path):
    rows = [["NA" if i == 5 else a, b, y] for i, (a, b, y) in enumerate(ROWS)]
    data = load(saved(tmp_path, table(rows, separator=";", write=comma)), label="y")
    assert data.shape == (2,)


def test_categories_become_features_of_zero_and_one(tmp_path):
    colours = ["red", "green", "blue"]
    rows = [[a, "" if i == 7 else colours[i % 3], i % 2 == 0, y] for i, (a, _, y) in enumerate(ROWS)]
    data = load(saved(tmp_path, table(rows, names=("size", "colour", "new", "y"))), label="y")
    assert data.feature_names == (
        *("size", "colour = blue", "colour = green", "colour = missing", "colour = red"),
        "new",
    )
    assert data.categorical == ("colour",)
    x = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert set(x[:, 1:5].unique().tolist()) == {0.0, 1.0}
    assert x[:, 1:5].sum(1).tolist() == [1.0] * 40
    assert x[:, 1:5].sum(0).tolist() == [13, 12, 1, 14]
    assert "1 of categories (colour), together 6 features" in data.recipe.description[0]
    red = (x[:, 4] == 1).nonzero()[0]
    other = (x[:, 1] == 1).nonzero()[0]
    assert float((x[red, 1:5] - x[other, 1:5]).norm()) == pytest.approx(2**0.5)


def test_codes_that_are_mostly_letters_are_categories(tmp_path):
    rows = [[a, ["A1", "B2", "7"][i % 3], y] for i, (a, _, y) in enumerate(ROWS)]
    data = load(saved(tmp_path, table(rows)), label="y")
    assert data.feature_names == ("a", "b = 7", "b = A1", "b = B2")


@pytest.mark.parametrize(
    ("spellings", "alike"),
    [
        (("yes", "no", "Yes"), "'Yes' and 'yes'"),
        (("left hand", "right", "left  hand"), "'left  hand' and 'left hand'"),
        (("left hand", "right", "lefthand"), "'left hand' and 'lefthand'"),
        (("a", "B", "b"), "'B' and 'b'"),
        (("TRUE", "false", "True"), "'TRUE' and 'True'"),
    ],
)
def test_labels_that_differ_in_case_or_blanks_are_warned_of(spellings, alike, tmp_path):
    rows = [[a, b, spellings[i % 3]] for i, (a, b, _) in enumerate(ROWS)]
    with pytest.warns(CheaplipWarning, match=f"column 'y': {alike} differ in case or blanks only; each is a class"):
        assert load(saved(tmp_path, table(rows)), label="y").classes == 3


def test_numbers_that_are_equal_are_one_class_but_large_ones_are_not_rounded(tmp_path):
    labels = ["12345678901234567890", "12345678901234567891"]
    rows = [[a, b, labels[y]] for a, b, y in ROWS]
    assert load(saved(tmp_path, table(rows)), label="y").class_names == tuple(labels)


def test_unix_seconds_keep_their_differences(tmp_path):
    rows = [[1_700_000_000 + 2 * i, b, i % 2] for i, (_, b, _) in enumerate(ROWS * 3)]
    data = load(saved(tmp_path, table(rows)), label="y")
    assert len(torch.cat([data.train.x, data.validation.x, data.test.x])[:, 0].unique()) == 120


@pytest.mark.parametrize("names", [("t", "y"), ("t", "b", "y")])
def test_what_float32_loses_is_standardised_or_named(names, tmp_path):
    rows = [[1_700_000_000 + 2 * i, i % 7, i % 2] for i in range(60)]
    source = saved(tmp_path, table([row[:1] + row[4 - len(names) :] for row in rows], names=names))
    assert load(source, label="y").scaling == "standard"
    with pytest.warns(CheaplipWarning, match=r"'t'\) has values so large that their differences are lost in float32"):
        load(source, label="y", scaling="none")


def test_a_small_column_in_the_unit_box_is_standardised(tmp_path):
    x = RNG.random((60, 2)) * [1, 0.005]
    source = saved(tmp_path, table([[*row, i % 2] for i, row in enumerate(x)]))
    assert load(source, label="y").scaling == "standard"
    with pytest.warns(CheaplipWarning, match=r"'b'\) has a standard deviation of 0.00\d+, .* use --scaling standard"):
        load(source, label="y", scaling="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": "z"}, "drop: expected columns of the table, got 'z': it has a, b, y"),
        ({"drop": "y"}, "drop: expected features, got 'y', the label's column"),
        ({"drop": "a,b"}, "expected a column beside the label's, but no column is left to learn from"),
        ({"encoding": "utf-99"}, "encoding: expected the name of one, such as utf-8, latin-1 or utf-16, got 'utf-99'"),
        (
            {"separator": "xx"},
            "separator: expected one character, or one of comma, semicolon, tab, pipe, blank, got 'xx'",
        ),
        ({"decimal": ";"}, "decimal: expected , or ., got ';'"),
        ({"resize": "8"}, "resize: expected only with a folder of images"),
        ({"bounds": "0,1"}, "expected values from 0 to 1, as --range says, got"),
        ({"bounds": "1"}, "range: expected the smallest and the largest value, such as 0,255, got '1'"),
    ],
)
def test_options_that_do_not_fit(options, message, tmp_path):
    with refuses(message):
        load(saved(tmp_path, table()), label="y", reading=Reading.parse(**options))


def test_options_overrule_what_would_be_found(tmp_path):
    source = saved(tmp_path, table([(f"{i + 1},250", i, i % 2) for i in range(40)], separator=";"))
    for decimal, largest in ((",", 40.25), (".", 40250)):
        data = load(source, label="y", reading=Reading.parse(decimal=decimal))
        assert everything(data)[-1, 0] == pytest.approx(largest, rel=1e-6)
    data = load(saved(tmp_path, table()), label="y", reading=Reading.parse(drop="a"))
    assert data.feature_names == ("b",)
    data = load(saved(tmp_path, table(separator="~")), label="y", reading=Reading.parse(separator="~"))
    assert data.feature_names == ("a", "b")
    data = load(saved(tmp_path, table().encode("cp500")), label="y", reading=Reading.parse(encoding="cp500"))
    assert data.feature_names == ("a", "b")


@pytest.mark.parametrize("kind", ["pandas", "polars", "polars, lazy"])
def test_a_frame_is_read_as_its_file_is(kind, tmp_path):
    library = pytest.importorskip(kind.split(",")[0])
    colours = ["red", "green", None]
    columns = {
        "size": [a if i != 4 else None for i, (a, _, _) in enumerate(ROWS)],
        "colour": [colours[i % 3] for i in range(40)],
        "new": [i % 5 == 0 for i in range(40)],
        "y": [["no", "yes"][y] for *_, y in ROWS],
    }
    frame = library.DataFrame(columns)
    frame = frame.lazy() if "lazy" in kind else frame
    data = load(frame, label="y")
    rows = [["" if v is None else v for v in row] for row in zip(*columns.values(), strict=True)]
    other = load(saved(tmp_path, table(rows, names=tuple(columns))), label="y")
    assert data.recipe.sha256 == other.recipe.sha256
    assert (data.feature_names, data.class_names) == (other.feature_names, other.class_names)
    assert torch.equal(data.test.x, other.test.x)


def test_a_frame_without_columns_is_refused():
    pandas = pytest.importorskip("pandas")
    for label in (None, "y"):
        with refuses("frame: expected columns of features and of labels, got none; fill the table"):
            load(pandas.DataFrame(), label=label)


def test_a_frame_s_columns_of_other_types_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": range(40), "when": pandas.date_range("2024", periods=40), "y": [0, 1] * 20})
    with refuses("got 'when' (dates or times)"):
        load(frame, label="y")
    frame = pandas.DataFrame({"a": [i / 3 for i in range(40)], "b": [[1]] * 40, "y": [0, 1] * 20})
    with refuses("'b' (values of type list)"):
        load(frame, label="y")
    with refuses("frame, row 3: expected a class in column 'y', got"):
        load(pandas.DataFrame({"a": range(6), "y": [0, 1, 0, None, 1, 0]}), label="y")


def test_categories_of_numbers_in_a_frame_stay_categories():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [i / 3 for i in range(40)], "zone": pandas.Categorical([1, 2] * 20)})
    frame["y"] = [0, 0, 1, 1] * 10
    assert load(frame, label="y").feature_names == ("a", "zone = 1", "zone = 2")


def test_parquet_is_read_as_its_frame_is(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"a": [row[0] for row in ROWS], "b": [row[1] for row in ROWS], "y": [row[2] for row in ROWS]}
    parquet.write_table(arrow.table(columns), tmp_path / "table.parquet")
    data = load(str(tmp_path / "table.parquet"), label="y")
    assert data.recipe.sha256 == load(saved(tmp_path, table()), label="y").recipe.sha256
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with refuses("bad.parquet: cannot be read: "):
        load(str(tmp_path / "bad.parquet"), label="y")
