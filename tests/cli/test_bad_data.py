"""Data that cannot be used: exit status 2, one line on standard error, nothing on standard output, nothing written."""

import numpy as np
import pytest

from cheaplip.cli import run

X, Y = np.arange(80.0).reshape(40, 2) / 7, np.arange(40) % 2
ROWS = [f"{a},{b},{y}" for (a, b), y in zip(X, Y, strict=True)]


def text(*rows, names="a,b,y", encoding="utf-8"):
    return "\n".join([names, *rows]).encode(encoding)


def npz(folder, **arrays):
    np.savez(folder / "mine.npz", **arrays)


TABLES = {
    "empty": b"",
    "blank": b"\n\n\n",
    "names alone": text(),
    "one row": text(ROWS[0]),
    "two rows": text(*ROWS[:2]),
    "no label column": text(*ROWS, names="a,b,c"),
    "label in other letters": text(*ROWS, names="a,b,Y"),
    "label twice": text(*(f"{row},1" for row in ROWS), names="a,b,y,y"),
    "no names": text(*ROWS[1:], names=ROWS[0]),
    "one class": text(*(f"{row[:-1]}1" for row in ROWS)),
    "a class each": text(*(f"{row[:-1]}{i}" for i, row in enumerate(ROWS))),
    "a class with one row": text(*ROWS, "1,2,9"),
    "missing label": text(*ROWS, "1,2,"),
    "missing label, NA": text(*ROWS, "1,2,NA"),
    "label alone": text(*map(str, Y), names="y"),
    "short row": text(*ROWS, "1,2"),
    "long row": text(*ROWS, "1,2,0,4"),
    "a word": text(*ROWS, "one,2,0"),
    "dates": text(*(f"2024-01-{i % 28 + 1:02},{row}" for i, row in enumerate(ROWS)), names="when,a,b,y"),
    "names of people": text(*(f"person {i},{row}" for i, row in enumerate(ROWS)), names="who,a,b,y"),
    "amounts": text(*(f"{i} %,{row}" for i, row in enumerate(ROWS)), names="share,a,b,y"),
    "infinite": text(*ROWS, "inf,2,0"),
    "too large": text(*ROWS, "1e300,2,0"),
    "commas of two meanings": text(*(f'"{i + 1},500";{i};{i % 2}' for i in range(40)), names="a;b;y"),
    "points and commas": text("1,5;2.5;0", *("1,5;2,5;1" for _ in range(40)), names="a;b;y"),
    "workbook": b"PK\x03\x04rest",
    "bytes": bytes(range(256)),
    "html": b"<html><body>404</body></html>",
    "mixed encodings": text(*ROWS) + b"\n\xff\xfe1,2,0\n",
    "columns without values": text(*(f",,{y}" for y in Y)),
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_table_that_cannot_be_used_ends_in_one_line(content, tmp_path, capsys):
    (tmp_path / "mine.csv").write_bytes(content)
    refused([str(tmp_path / "mine.csv"), "--label", "y"], tmp_path, capsys)


ARRAYS = {
    "other names": {"a": X, "b": Y},
    "no labels": {"x": X},
    "training alone": {"x_train": X, "y_train": Y},
    "parts of different shapes": {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
    "texts": {"x": X.astype(str), "y": Y},
    "objects": {"x": X.astype(object), "y": Y},
    "complex": {"x": X.astype(complex), "y": Y},
    "a row": {"x": X[0], "y": Y},
    "too few labels": {"x": X, "y": Y[1:]},
    "missing names of classes": {"x": X, "y": np.array(["", "a"])[Y]},
    "labels of half": {"x": X, "y": Y / 2},
    "one-hot": {"x": X, "y": np.eye(2)[Y]},
    "missing": {"x": np.where(X > 5, np.nan, X), "y": Y},
    "nothing": {"x": X[:0], "y": Y[:0]},
    "one class": {"x": X, "y": 0 * Y},
}


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_cannot_be_used_end_in_one_line(arrays, tmp_path, capsys):
    npz(tmp_path, **arrays)
    refused([str(tmp_path / "mine.npz")], tmp_path, capsys)


OPTIONS = {
    "no label": [],
    "unknown column": ["--label", "z"],
    "drop unknown": ["--label", "y", "--drop", "z"],
    "drop the label": ["--label", "y", "--drop", "y"],
    "drop all": ["--label", "y", "--drop", "a,b"],
    "missing code in no cell": ["--label", "y", "--missing", "k.A."],
    "no missing code": ["--label", "y", "--missing", ""],
    "separator": ["--label", "y", "--separator", "abc"],
    "another separator": ["--label", "y", "--separator", ";"],
    "decimal": ["--label", "y", "--decimal", "x"],
    "encoding": ["--label", "y", "--encoding", "klingon"],
    "another encoding": ["--label", "y", "--encoding", "utf-16"],
    "range": ["--label", "y", "--range", "big"],
    "range upside down": ["--label", "y", "--range", "5,1"],
    "narrow range": ["--label", "y", "--range", "0,1"],
    "range and scaling": ["--label", "y", "--range", "0,99", "--scaling", "standard"],
    "resize": ["--label", "y", "--resize", "32"],
    "resize in words": ["--label", "y", "--resize", "small"],
    "scaling": ["--label", "y", "--scaling", "robust"],
    "task": ["--label", "y", "--task", "ranking"],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_that_do_not_fit_end_in_one_line(options, tmp_path, capsys):
    (tmp_path / "mine.csv").write_bytes(text(*ROWS))
    refused([str(tmp_path / "mine.csv"), *options], tmp_path, capsys)


@pytest.mark.parametrize("name", ["gone.csv", "gone.npz", "gone.parquet", "gone", "mine.xlsx", "mine.json", "mine.txt"])
def test_files_of_other_kinds_end_in_one_line(name, tmp_path, capsys):
    if name.startswith("mine"):
        (tmp_path / name).write_bytes(text(*ROWS))
    refused([str(tmp_path / name)], tmp_path, capsys)


def refused(arguments, folder, capsys):
    assert run(["train", *arguments, "--epochs", "1", "--model", "mlp:4", "--out", str(folder / "run")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("cheaplip: ")
    assert not (folder / "run").exists()
