"""Bad input of every command: exit status 2, one line on standard error, and every file as it was."""

import contextlib
import hashlib

import numpy as np
import pytest

from cheaplip.cli import run
from cheaplip.cli.parsing.complaints import one_line

TINY = ["--epochs", "1", "--model", "mlp:4", "--probe", "0", "--search", "8", "--no-measure"]
X = np.round(np.random.default_rng(0).normal(size=(60, 2)), 3)
Y = (X[:, 0] > 0).astype(int)


def table(path, labels, rows=60):
    lines = [f"{a},{b},{y}" for (a, b), y in zip(X[:rows], labels[:rows], strict=True)]
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tables, arrays, functions and runs, from which the commands are called."""
    folder = tmp_path_factory.mktemp("bad")
    table(folder / "mine.csv", Y)
    table(folder / "amounts.csv", X.sum(1))
    table(folder / "less.csv", Y, 20)
    table(folder / "swapped.csv", 1 - Y)
    table(folder / "grown.csv", Y)
    table(folder / "renamed.csv", np.where(Y, "yes", "no"))
    (folder / "narrow.csv").write_text("\n".join(["a,y", *(f"{a},{y}" for (a, _), y in zip(X, Y, strict=True))]))
    (folder / "broken.onnx").write_text("no model")
    (folder / "data.npy").write_bytes(b"\x93NUMPY")
    (folder / "pages").mkdir()
    (folder / "pages" / "letter.txt").write_text("hello")
    np.savez(folder / "scalars.npz", x=np.float64(3), y=np.int64(0))
    parts = {"x_train": X, "y_train": Y, "x_test": X[:0], "y_test": Y[:0]}
    np.savez(folder / "no_test.npz", **parts)
    (folder / "functions.py").write_text(
        "def fails():\n    raise RuntimeError('one\\ntwo')\n\n\n"
        "def three():\n    return 1, 2, 3\n\n\n"
        "def wants(argument):\n    return argument\n"
    )
    with contextlib.chdir(folder):
        assert run(["train", "mine.csv", "--label", "y", *TINY, "--out", "run"]) == 0
        assert run(["train", "mine.csv", "--label", "y", *TINY, "--method", "plain", "--out", "plain"]) == 0
        assert run(["train", "grown.csv", "--label", "y", *TINY, "--method", "plain", "--out", "before"]) == 0
        table(folder / "grown.csv", 1 - Y)
        amounts = ["train", "amounts.csv", "--label", "y", "--task", "regression", *TINY, "--out", "amounts"]
        assert run(amounts) == 0
    return folder


def train(*words, label="y"):
    return ["train", *words, "--out", "new", *([] if label is None else ["--label", label])]


MINE, AMOUNTS = ("mine.csv", *TINY), ("amounts.csv", "--task", "regression", *TINY)
FRONTIER = ["frontier", "mine.csv", "--label", "y", "--out", "curve"]
COMPARE = ["compare", "mine.csv", "--label", "y", "--out", "rows"]

CASES = {
    "target 97": (train(*MINE, "--target", "97"), "97 % is 0.97, or 97%"),
    "target 100.01 %": (train(*MINE, "--target", "100.01%"), "expected an accuracy in (0, 1)"),
    "target with a decimal comma": (train(*MINE, "--target", "0,97"), "expected a fraction"),
    "target not a number": (train(*MINE, "--target", "nan"), "target: expected"),
    "target in words": (train(*MINE, "--target", "high"), "got 'high'"),
    "error in percent": (train(*AMOUNTS, "--target", "5%"), "target: expected an error in the label's units"),
    "error below zero": (train(*AMOUNTS, "--target=-1"), "expected a positive root-mean-squared error"),
    "give up and target": (train(*MINE, "--give-up", "1%", "--target", "0.9"), "leave one of them out"),
    "give up 5": (train(*MINE, "--give-up", "5"), "0.5 % is 0.005, or 0.5%"),
    "give up a list": (train(*MINE, "--give-up", "0.5%,1%"), "got '0.5%,1%'"),
    "give up less than nothing": (train(*MINE, "--give-up=-1%"), "from 0 to below 0.5"),
    "reference that is gone": (train(*MINE, "--reference", "gone"), "no metrics.json in gone"),
    "reference that is no run": (train(*MINE, "--reference", "pages"), "no metrics.json in pages"),
    "reference of other data": (train(*MINE, "--reference", "amounts"), "reference: expected a run with data"),
    "reference of data that changed": (
        train("grown.csv", *TINY, "--reference", "before"),
        "reference: expected a run on grown.csv as it is now",
    ),
    "no steps": (train("mine.csv", *TINY, "--epochs", "0"), "epochs: expected a whole number of 1 or more"),
    "half an epoch": (train("mine.csv", *TINY, "--epochs", "1.5"), "--epochs"),
    "no neurons": (train("mine.csv", *TINY, "--model", "mlp:0"), "model"),
    "images' network": (train("mine.csv", *TINY, "--model", "cnn"), "cnn"),
    "network that is gone": (train("mine.csv", *TINY, "--model", "functions:gone"), "cannot import"),
    "network misspelt": (train("mine.csv", *TINY, "--model", "mpl:4"), "did you mean mlp:4?"),
    "network that is none": (train("mine.csv", *TINY, "--model", "functions:three"), "functions:three"),
    "device that does not compute": (train(*MINE, "--device", "meta"), "device: cannot use 'meta'"),
    "seeds of compare": ([*COMPARE, *TINY[:-1], "--seeds=-1"], "seeds: expected a whole number of 0 or more"),
    "resume and overwrite": (
        ["train", *MINE, "--label", "y", "--out", "run", "--resume", "--overwrite"],
        "one of them",
    ),
    "resume with other rows": (["train", "less.csv", "--label", "y", *TINY, "--out", "run", "--resume"], "the 60 rows"),
    "resume with other labels": (
        ["train", "swapped.csv", "--label", "y", *TINY, "--out", "run", "--resume"],
        "60 of the run's rows (12 of them test rows) changed",
    ),
    "resume with another network": (
        ["train", *MINE, "--label", "y", "--out", "run", "--resume", "--model", "mlp:5"],
        "cannot resume run with other options",
    ),
    "no folder": (["train", *MINE, "--label", "y", "--out", ""], "is not empty"),
    "folder of something else": (["train", *MINE, "--label", "y", "--out", "pages"], "is not empty"),
    "folder below a file": (["train", *MINE, "--label", "y", "--out", "mine.csv/run"], "cannot write to output folder"),
    "two labels": (train(*MINE, label="a,y"), "expected one column 'a,y'"),
    "number of the label": (train(*MINE, label="2"), "expected one column '2'"),
    "class for each row": (train("amounts.csv", *TINY), "--task regression"),
    "drop without a name": (train(*MINE, "--drop", "a,,b"), "got '': it has a, b, y"),
    "drop nothing": (train(*MINE, "--drop", ""), "drop: expected columns of the table, got ''"),
    "nothing but the label": (train(*MINE, "--drop", "a,b"), "no column is left to learn from"),
    "address": (train("https://example.org/mine.csv", *TINY), "no such file"),
    "array without a name": (train("data.npy", *TINY, label=None), "expected a file whose name ends in .npz"),
    "texts for images": (train("pages", *TINY, label=None), "expected a folder for each class"),
    "arrays without a length": (train("scalars.npz", *TINY, label=None), "expected x of shape (N, *input)"),
    "part without inputs": (train("no_test.npz", *TINY, label=None), "expected at least one input in each part"),
    "function that fails": (train("functions:fails", *TINY, label=None), "raised RuntimeError: one two"),
    "function of three": (train("functions:three", *TINY, label=None), "expected the function to return (x, y)"),
    "function that wants more": (train("functions:wants", *TINY, label=None), "it is called without arguments"),
    "range of one number": (train(*MINE, "--range", "255"), "expected the smallest and the largest value"),
    "range of infinity": (train(*MINE, "--range", "0,inf"), "expected the smallest and the largest value"),
    "radius in percent": (["evaluate", "run", "--epsilon", "5%"], "epsilon: expected numbers"),
    "radius in one character": (["evaluate", "run", "--epsilon", "½"], "epsilon: expected numbers"),
    "radius and a comma": (["evaluate", "run", "--epsilon", "1,"], "epsilon: expected numbers"),
    "radius without end": (["evaluate", "run", "--epsilon", "1e400"], "expected finite numbers"),
    "attack misspelt": (["evaluate", "run", "--attacks", "pdg"], "did you mean 'pgd'?"),
    "attack on images": (["evaluate", "run", "--attacks", "blur"], "blur: expected images"),
    "attack on classes": (["evaluate", "amounts", "--attacks", "autoattack"], "does not apply to regression"),
    "no inputs": (["evaluate", "run", "--samples", "0"], "samples: expected 1 or more"),
    "moved data that are gone": (["evaluate", "run", "--data", "gone.csv"], "no such file"),
    "moved data without a column": (["evaluate", "run", "--data", "narrow.csv"], "got none named 'b'"),
    "moved data with other classes": (["certify", "run", "--data", "renamed.csv"], "60 of the run's rows"),
    "moved data of fewer rows": (["certify", "run", "--data", "less.csv"], "expected the 60 rows"),
    "moved data of another kind": (["export", "run", "--data", "data.npy"], "data.npy"),
    "seconds that are none": (["certify", "run", "--seconds", "nan"], "seconds: expected a finite number"),
    "bounds for regression": (["certify", "amounts", "--local"], "local: expected a classifier"),
    "model that is none": (["bracket", "broken.onnx", "--data", "mine.csv", "--label", "y"], "cannot be read"),
    "model without data": (["bracket", "gone.pt2"], "gone.pt2"),
    "bound misspelt": (["bracket", "run", "--method", "lipspd"], "did you mean 'lipsdp'?"),
    "shard from 0": ([*FRONTIER, *TINY[:-1], "--shard", "0/2"], "i from 1 to n"),
    "shard beyond the last": ([*FRONTIER, *TINY[:-1], "--shard", "3/2"], "i from 1 to n"),
    "shard of no parts": ([*FRONTIER, *TINY[:-1], "--shard", "1/0"], "i from 1 to n"),
    "shard in halves": ([*FRONTIER, *TINY[:-1], "--shard", "1.0/2"], "i from 1 to n"),
    "frontier of too much": ([*FRONTIER, *TINY[:-1], "--give-up", "0,60%"], "from 0 to below 0.5"),
    "frontier with a comma too many": ([*FRONTIER, *TINY[:-1], "--give-up", "1%,"], "got ''"),
    "frontier in a run": (["frontier", "mine.csv", "--label", "y", *TINY[:-1], "--out", "run"], "is not empty"),
    "frontier in a file": (["frontier", "mine.csv", "--label", "y", *TINY[:-1], "--out", "mine.csv"], "cannot write"),
    "frontier in another folder": (["frontier", "mine.csv", "--label", "y", *TINY[:-1], "--out", "pages"], "not empty"),
    "no processes": ([*FRONTIER, *TINY[:-1], "--jobs", "0"], "jobs: expected 1 or more"),
    "table for a run": (["certify", "mine.csv"], "mine.csv is a file: expected the folder of a run made by"),
    "table for an evaluated run": (["evaluate", "mine.csv"], "mine.csv is a file: expected the folder of a run"),
    "table for a card": (["verify", "mine.csv"], "mine.csv is a file: expected the folder of a run"),
    "table for an export": (["export", "mine.csv"], "mine.csv is a file: expected the folder of a run"),
    "table for a report": (["report", "mine.csv"], "mine.csv"),
    "page of nothing": (["report", "pages"], "nothing to report"),
    "card of nothing": (["verify", "plain"], "cheaplip certify plain"),
}


def state(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("arguments", "message"), CASES.values(), ids=CASES)
def test_bad_input_ends_in_one_line(arguments, message, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = state(place)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("cheaplip: ")
    assert message in err
    assert state(place) == before


OUT = "missing option --out PATH (the folder of the run; it must be empty, or not exist yet)"
COMMANDS = "train, compare, rivals, frontier, evaluate, bracket, certify, verify, reproduce, report, export"
TRAIN = ["train", "digits", "--out", "new"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*TRAIN, "--epoch", "3"], "unrecognized option --epoch 3: did you mean --epochs?"),
        ([*TRAIN, "--epoch=3"], "unrecognized option --epoch=3: did you mean --epochs?"),
        ([*TRAIN, "--blue"], "unrecognized option --blue: 'cheaplip train --help' lists the options"),
        (["bracket", "run", "--lr", "1"], "unrecognized option --lr 1: 'cheaplip bracket --help' lists the options"),
        ([*TRAIN, "more", "words"], "unexpected 'more words': 'cheaplip train --help' lists what is expected"),
        (
            [*TRAIN, "--epoch", "3", "--mehtod", "clip"],
            "unrecognized option --epoch 3: did you mean --epochs?; "
            "unrecognized option --mehtod clip: did you mean --method?",
        ),
        (["train", "digits", "--epoch", "3"], f"{OUT}; unrecognized option --epoch 3: did you mean --epochs?"),
        (["verify"], "missing argument (the run's folder)"),
        ([*TRAIN, "--epochs", "ten"], "--epochs: expected a whole number or None, got 'ten'"),
        ([*TRAIN, "--lam", "a b"], "--lam: expected a number or None, got 'a b'"),
        ([*TRAIN, "--seed", "1.5"], "--seed: expected a whole number, got '1.5'"),
        (["verify", "run", "--seconds", "x"], "--seconds: expected a number, got 'x'"),
        (["verify", "run", "--seconds"], "--seconds: expected a value, got none"),
        (["export", "run", "--format", "onx"], "--format: expected one of onnx, pt2, got 'onx'; did you mean 'onnx'?"),
        (["trian", "digits"], f"unknown command 'trian': expected one of {COMMANDS}; did you mean 'train'?"),
        ([], f"expected a command, one of {COMMANDS}: 'cheaplip --help' describes them"),
        ([*TRAIN, "--every", "0"], "every: expected a whole number of 1 or more, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_cannot_be_parsed_get_a_short_line(arguments, line, capsys):
    assert run(arguments) == 2
    assert capsys.readouterr() == ("", f"cheaplip: {line}\n")


BOX = """\x1b[31m╭─ Value error ─────────────────────────╮
│ \x1b[1mError parsing --epochs: invalid literal │
│ for int() with base 10: 'ten'         │
│ ───────────────────────────────────── │
│ For full helptext, see cheaplip --help │
╰───────────────────────────────────────╯
"""
NEW = " Odd option\n ----------\n  Odd option: --epochs\n\n  is odd\n ----------\n  For help, run cheaplip --help\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOX, "--epochs: expected a whole number, got 'ten'"),
        (NEW, "Odd option: --epochs is odd. For help, run cheaplip --help"),
        ("nothing known", "nothing known"),
        ("Required options\n----\nMissing from cheaplip train:\n", "Required options. Missing from cheaplip train:"),
    ],
    ids=["box", "unknown", "plain", "cut-off"],
)
def test_what_another_version_of_the_parser_says_is_shown_on_one_line(text, line):
    assert one_line(text, ["train"], ["--epochs"], ["train"]) == line
