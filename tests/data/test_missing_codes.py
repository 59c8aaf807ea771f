"""Codes that stand for a missing value in a table: suggested, read as the user says, and the same for ever."""

import json
import re

import numpy as np
import pytest
import torch

from cheaplip.cli import run
from cheaplip.data import Reading, load
from data_files import refuses, save_csv

RNG = np.random.default_rng(0)
A, B = (np.round(RNG.normal(size=60), 3).tolist() for _ in range(2))


def table(cell, label=lambda i: i % 2, separator=",", write=str):
    """A table of numbers ``a``, of ``b`` with a cell of one's own or else a number, and of labels ``y``."""
    rows = [(A[i], B[i] if cell(i) is None else cell(i), label(i)) for i in range(60)]
    return "\n".join(["a;b;y".replace(";", separator), *(separator.join(map(write, row)) for row in rows)])


def third(code):
    """A code in every third cell of a column of numbers."""
    return lambda i: code if i % 3 == 0 else None


def german(value):
    return str(value).replace(".", ",") if isinstance(value, float) else str(value)


def read(folder, content, missing=None, **options):
    return load(save_csv(folder, content), label="y", reading=Reading.parse(missing=missing, **options))


FILES = {  # the codes, and a table whose every third cell holds one
    "a text": ("k.A.", table(third("k.A."))),
    "a text with blanks": ("keine Angabe", table(third(" keine Angabe "))),
    "decimal commas": ("k.A.", table(third("k.A."), separator=";", write=german)),
    "a number": ("-99", table(third("-99"))),
    "a number with decimals": ("-99", table(third("-99.0"))),
    "a number with decimal comma": ("-99.9", table(third("-99,9"), separator=";", write=german)),
    "an infinite number": ("inf", table(third("inf"))),
    "two": ("k.A., -99", table(lambda i: [("k.A.", "-99")[i % 2], None, None][i % 3])),
    "two, a number first": ("-99,k.A.", table(lambda i: [("k.A.", "-99")[i % 2], None, None][i % 3])),
    "letters of truth values": ("false", table(third("false"))),
    "a date": ("1900-01-01", table(third("1900-01-01"))),
    "in most cells": ("k.A.", table(lambda i: None if i % 3 == 0 else "k.A.")),
}


@pytest.mark.parametrize(("missing", "content"), FILES.values(), ids=FILES)
def test_codes_are_read_as_empty_cells_are(missing, content, tmp_path):
    data = read(tmp_path, content, missing)
    emptied = re.sub("|".join(rf" ?{code.strip()}(\.0|,9)? ?(?=[,;])" for code in missing.split(",")), "", content)
    if missing == "-99.9":
        emptied = content.replace("-99,9", "")
    empty = read(tmp_path, emptied)
    assert data.recipe.sha256 == empty.recipe.sha256
    assert torch.equal(data.train.x, empty.train.x)
    assert data.feature_names == ("a", "b")


def test_what_stands_for_a_missing_value_is_told(tmp_path):
    data = read(tmp_path, FILES["two"][1], "k.A.,-99")
    assert (
        "missing values: 'k.A.' (10 cells), '-99' (10 cells); 20 missing numbers replaced"
        in (data.recipe.description[1])
    )


@pytest.mark.parametrize("missing", [None, "k.A."])
def test_a_code_among_texts_is_a_category_unless_it_is_named(missing, tmp_path):
    data = read(tmp_path, table(lambda i: ["rot", "grün", "k.A."][i % 3]), missing)
    assert data.feature_names == ("a", "b = grün", *(["b = missing"] if missing else ["b = k.A."]), "b = rot")


def test_a_number_that_stands_for_a_missing_value_stays_a_number_unless_it_is_named(tmp_path):
    data = read(tmp_path, table(third("-99")))
    assert float(data.from_source.inverse(data.train.x.double())[:, 1].min()) == pytest.approx(-99)


SUGGESTED = {
    "a text": (
        table(third("k.A.")),
        "line 2, column 'b': expected a number, as in most rows, got 'k.A.' (20 cells): if it stands for a missing "
        "value, missing='k.A.', on the command line --missing 'k.A.'; or encode the column, or leave it out with drop=",
    ),
    "decimal commas": (
        table(third("k.A."), separator=";", write=german),
        "expected a number with a decimal comma, as in most rows, got 'k.A.' (20 cells): if it stands for",
    ),
    "beside missing values of the usual kinds": (
        table(lambda i: ["k.A.", "NA", "-", None, None, None, None][i % 7]),
        "got 'k.A.' (9 cells): if it stands for a missing value",
    ),
    "in most of a column of all different numbers": (
        table(lambda i: "k.A." if i < 30 else float(i)) + "\n1,k.A.,0",
        "'b' ('k.A.' in 31 of 61 rows and else numbers: if it stands for a missing value, missing='k.A.', on the",
    ),
    "the only decimal commas": (
        "\n".join(["a;b;y", *(f"{i};{german(B[i]) if i % 3 else 'k.A.'};{i % 2}" for i in range(60))]),
        "expected a number with a decimal comma, as in most rows, got 'k.A.' (20 cells): if it stands for",
    ),
    "once": (table(lambda i: "k.A." if i == 0 else None), "got 'k.A.'; encode the column, or leave it out"),
    "two texts": (table(lambda i: ["k.A.", "n.b.", None, None][i % 4]), "got 'k.A.'; encode the column, or"),
    "a text with a quote": (table(third("can't say")), 'got "can\'t say"; encode the column, or leave it out'),
    "a text with a comma": (table(third('"k, A"')), "got 'k, A'; encode the column, or leave it out"),
}


@pytest.mark.parametrize(("content", "message"), SUGGESTED.values(), ids=SUGGESTED)
def test_the_one_text_among_numbers_is_suggested_as_a_code(content, message, tmp_path):
    with refuses(message):
        read(tmp_path, content)


def test_a_column_of_numbers_that_one_text_turns_into_categories_is_told(tmp_path):
    data = read(tmp_path, table(lambda i: "k.A." if i % 3 else i // 12))
    assert (
        "column 'b' read as categories, as 'k.A.' is no number: --missing 'k.A.' changes that"
        in (data.recipe.description[1])
    )


REFUSED = {
    "nowhere": ("k.A.,-99", "missing: expected codes that cells hold, got '-99', found in none; check how the file"),
    "in other letters": ("K.A.,k.A.", "got 'K.A.', found in none"),
    "empty": ("", "missing: expected codes between commas, such as k.A.,-99, got ''; empty cells are missing anyway"),
    "a comma too many": ("k.A.,", "missing: expected codes between commas, such as k.A.,-99, got 'k.A.,'"),
}


@pytest.mark.parametrize(("missing", "message"), REFUSED.values(), ids=REFUSED)
def test_codes_that_do_not_fit(missing, message, tmp_path):
    with refuses(message):
        read(tmp_path, table(third("k.A.")), missing)


def test_a_code_in_a_dropped_column_alone_is_in_no_cell(tmp_path):
    with refuses("got 'k.A.', found in none"):
        read(tmp_path, table(third("k.A.")), "k.A.", drop="b")


@pytest.mark.parametrize("code", ["k.A.", "-1"])
def test_a_label_that_is_a_code_is_refused_as_missing(code, tmp_path):
    with refuses(f"line 4: expected a class in column 'y', got {code}, which stands for a missing value (and 19 more)"):
        read(tmp_path, table(lambda i: None, lambda i: [0, 1, code][i % 3]), code)


def test_codes_are_for_tables_alone():
    with refuses("missing: expected only with a table, got 'digits'; leave it out"):
        load("digits", reading=Reading.parse(missing="-99"))


@pytest.mark.parametrize("kind", ["pandas", "polars", "categories of pandas", "single precision"])
def test_codes_in_a_frame(kind, tmp_path):
    library = pytest.importorskip("polars" if kind == "polars" else "pandas")
    texts = ["k.A." if i % 3 == 0 else "rg"[i % 2] for i in range(60)]
    columns = {"a": A, "b": [-99.9 if i % 3 == 0 else b for i, b in enumerate(B)], "c": texts, "y": [0, 1] * 30}
    frame = library.DataFrame(columns)
    if kind == "categories of pandas":
        frame["c"] = library.Categorical(texts)
    if kind == "single precision":
        frame["b"] = frame["b"].astype("float32")
    data = load(frame, label="y", reading=Reading.parse(missing="-99.9,k.A."))
    assert data.feature_names == ("a", "b", "c = g", "c = missing", "c = r")
    assert float(data.from_source.inverse(data.train.x.double())[:, 1].min()) > -5


def test_a_number_among_the_categories_of_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": A, "zone": pandas.Categorical([1.0, 2.0, -99.0] * 20), "y": [0, 1] * 30})
    data = load(frame, label="y", reading=Reading.parse(missing="-99"))
    assert data.feature_names == ("a", "zone = 1.0", "zone = 2.0", "zone = missing")


def test_truth_values_are_no_numbers_of_a_code():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": A, "new": [i % 4 < 2 for i in range(60)], "b": [1, 5, 7] * 20})
    frame["y"] = ["no", "yes"] * 30
    data = load(frame, label="y", reading=Reading.parse(missing="1"))
    assert "missing values: '1' (20 cells); 20 missing numbers" in data.recipe.description[1]


def test_codes_in_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = ["k.A." if i % 3 == 0 else str(b) for i, b in enumerate(B)]
    parquet.write_table(arrow.table({"a": A, "b": texts, "y": [0, 1] * 30}), tmp_path / "table.parquet")
    data = load(str(tmp_path / "table.parquet"), label="y", reading=Reading.parse(missing="k.A."))
    assert data.recipe.sha256 == read(tmp_path, table(third("k.A.")), "k.A.").recipe.sha256


def test_a_run_reads_its_codes_again(tmp_path):
    content = table(lambda i: ["k.A.", "-99", None, None][i % 4])
    first = read(tmp_path, content, "k.A.,-99")
    reading = Reading.parse(missing="k.A.,-99")
    again = load(save_csv(tmp_path, content), label="y", reading=reading, recipe=first.recipe)
    assert torch.equal(first.test.x, again.test.x)
    emptied = content.replace("k.A.", "").replace("-99", "")
    assert torch.equal(
        first.test.x, load(save_csv(tmp_path, emptied), label="y", reading=reading, recipe=first.recipe).test.x
    )


def test_the_codes_of_a_run_are_in_its_folder_and_its_commands_read_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = table(lambda i: ["k.A.", "-99", None, None][i % 4])
    arguments = ["train", save_csv(tmp_path, content), "--label", "y", "--missing", "-99,k.A.", "--target", "None"]
    assert run([*arguments, "--epochs", "1", "--model", "mlp:4", "--out", "run", "--no-measure"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["missing"] == "-99,k.A."
    assert run(["evaluate", "run", "--attacks", "noise"]) == 0
    assert run([*arguments, "--epochs", "1", "--model", "mlp:4", "--out", "run", "--no-measure", "--resume"]) == 0
