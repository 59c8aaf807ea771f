"""Labels in ``.npz`` files: the array that ``label`` names, texts, and whole numbers that do not start at 0."""

import numpy as np
import pytest
import torch

from cheaplip import CheaplipWarning
from cheaplip.cli import run
from cheaplip.data import load
from data_files import refuses, save_npz

X = np.random.default_rng(0).normal(size=(120, 4))
Y = np.arange(120) % 4
IDS = np.array([f"patient {i}" for i in range(120)])
KINDS = np.array(["rot", "blau", "grün", "gelb"])


def parts(arrays):
    """The same arrays, split into 80 rows to train on and 40 for the test."""
    return {f"{name}_train": array[:80] for name, array in arrays.items()} | {
        f"{name}_test": array[80:] for name, array in arrays.items()
    }


NAMED = {
    "beside x": ("kind", {"x": X, "kind": Y}),
    "beside X and sample ids": ("kind", {"ids": IDS, "X": X, "kind": Y}),
    "beside a usual array of labels": ("kind", {"x": X, "y": Y * 0, "kind": Y}),
    "a usual name": ("y", {"x": X, "y": Y}),
    "a usual name, of another pair": ("labels", {"x": X, "y": Y * 0, "labels": Y}),
    "beside the only other array": ("kind", {"measured": X, "kind": Y}),
    "beside the only other array of as many rows": ("kind", {"columns": np.eye(4), "measured": X, "kind": Y}),
    "beside measurements and sample ids": ("kind", {"ids": IDS, "measured": X, "kind": Y, "batch": Y}),
    "two of inputs, one of as many rows": ("kind", {"x": X[:9], "data": X, "kind": Y}),
    "of each part": ("kind", parts({"x": X, "kind": Y})),
    "of each part, usual names": ("y", parts({"x": X, "y": Y})),
    "of the training part, usual names": ("y_train", parts({"x": X, "y": Y})),
    "of other inputs": ("y", {"data": X, "y": Y}),
    "a column": ("kind", {"x": X, "kind": Y[:, None]}),
}


@pytest.mark.parametrize(("label", "arrays"), NAMED.values(), ids=NAMED)
def test_label_names_the_array_of_labels(label, arrays, tmp_path):
    data = load(save_npz(tmp_path, **arrays), label=label)
    assert (data.shape, data.classes) == ((4,), 4)
    expected = load(save_npz(tmp_path, **(parts({"x": X, "y": Y}) if "x_train" in arrays else {"x": X, "y": Y})))
    assert data.recipe.sha256 == expected.recipe.sha256


def test_the_array_of_labels_is_told(tmp_path):
    data = load(save_npz(tmp_path, measured=X, kind=Y), label="kind")
    assert data.recipe.description[1] == "read with: arrays measured and kind"


def test_label_names_numbers_to_predict(tmp_path):
    data = load(save_npz(tmp_path, x=X, y=Y, mass=X[:, 0]), label="mass", task="regression")
    assert data.classes == 0
    torch.testing.assert_close(data.test.y, data.test.x[:, :1])


def test_a_training_part_alone_is_read_if_its_labels_are_named(tmp_path):
    assert load(save_npz(tmp_path, x_train=X, y_train=Y), label="y_train").shape == (4,)


UNFIT = {
    "unknown": ("sort", {"x": X, "kind": Y}, "expected an array 'sort', as --label says, got x, kind; name one of"),
    "misspelt": ("kinds", {"x": X, "kind": Y}, "got x, kind; did you mean 'kind'?"),
    "in other letters": ("Kind", {"x": X, "kind": Y}, "got x, kind; did you mean 'kind'?"),
    "of one part": ("kind", {"x_train": X, "kind_train": Y, "x_test": X}, "an array 'kind', as --label says, got x_tr"),
    "no inputs": (
        "kind",
        {"kind": Y, "ids": IDS},
        "expected one array of inputs, named x or with as many rows as kind, got ids; name it x: np.savez(path, x=x, "
        "kind=kind)",
    ),
    "two of inputs": (
        "kind",
        {"before": X, "after": X, "kind": Y},
        "with as many rows as kind, got before, after; name",
    ),
    "labels alone": ("kind", {"kind": Y}, "with as many rows as kind, got none; name it x"),
}


@pytest.mark.parametrize(("label", "arrays", "message"), UNFIT.values(), ids=UNFIT)
def test_a_label_that_does_not_fit(label, arrays, message, tmp_path):
    with refuses(message):
        load(save_npz(tmp_path, **arrays), label=label)


CLASSES = {  # labels, and the names of their classes
    "texts": (KINDS[Y], ("blau", "gelb", "grün", "rot")),
    "texts as bytes": (np.char.encode(KINDS, "utf-8")[Y], ("blau", "gelb", "grün", "rot")),
    "texts of one letter, a column": (np.array(list("abcd"))[Y][:, None], ("a", "b", "c", "d")),
    "numbers as texts": (Y.astype(str), ("0", "1", "2", "3")),
    "numbers as texts, two digits": ((Y + 8).astype(str), ("8", "9", "10", "11")),
    "from 1": (Y + 1, ("1", "2", "3", "4")),
    "from 1, bytes": ((Y + 1).astype(np.uint8), ("1", "2", "3", "4")),
    "from 1, as floats": ((Y + 1).astype(float), ("1", "2", "3", "4")),
    "with gaps": (Y * 5, ("0", "5", "10", "15")),
    "of both signs": (2 * (Y % 2) - 1, ("-1", "1")),
    "large": (Y + 10**12, tuple(str(10**12 + i) for i in range(4))),
    "from 0": (Y, ()),
    "from 0, as floats": (Y.astype(np.float32), ()),
}


@pytest.mark.parametrize("split", [False, True], ids=["one part", "two parts"])
@pytest.mark.parametrize(("labels", "names"), CLASSES.values(), ids=CLASSES)
def test_classes_are_sorted_and_named(labels, names, split, tmp_path):
    arrays = {"x": X, "y": labels}
    source = save_npz(tmp_path, **(parts(arrays) if split else arrays))
    data = load(source)
    assert (data.classes, data.class_names, data.recipe.classes) == (len(names) or 4, names, names)
    order = {name: number for number, name in enumerate(names or "0123")}
    rows = {tuple(row): i for i, row in enumerate(X.astype(np.float32).tolist())}
    texts = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    for row, y in zip(data.test.x.tolist(), data.test.y.tolist(), strict=True):
        cell = texts.reshape(-1)[rows[tuple(row)]]
        assert order[str(cell if texts.dtype.kind == "U" else int(cell))] == y
    again = load(source, recipe=data.recipe)
    assert torch.equal(again.test.y, data.test.y)
    assert again.class_names == names


def test_names_of_classes_in_the_description(tmp_path):
    data = load(save_npz(tmp_path, x=X, y=KINDS[Y % 2]))
    assert data.recipe.description[0].endswith("2 classes, blau 50 % / rot 50 %")


def test_rows_of_new_classes_are_left_out(tmp_path):
    first = load(save_npz(tmp_path, x=X, y=KINDS[Y % 2]))
    grown = save_npz(tmp_path, x=np.concatenate([X, X + 1]), y=np.concatenate([KINDS[Y % 2], np.full(120, "weiß")]))
    with pytest.warns(CheaplipWarning, match="120 rows are new since the run was trained; they are left out"):
        data = load(grown, recipe=first.recipe)
    assert (data.classes, data.class_names) == (2, ("blau", "rot"))
    assert torch.equal(data.test.y, first.test.y)


def test_a_run_on_numbered_classes_does_not_take_names_for_them(tmp_path):
    first = load(save_npz(tmp_path, x=X, y=Y))
    with refuses("120 of the run's rows (24 of them test rows) changed or missing, 120 new"):
        load(save_npz(tmp_path, x=X, y=KINDS[Y]), recipe=first.recipe)


def test_names_that_differ_in_case_alone_are_warned_of(tmp_path):
    with pytest.warns(CheaplipWarning, match="array 'y': 'Rot' and 'rot' differ in case or blanks only"):
        load(save_npz(tmp_path, x=X, y=np.array(["rot", "Rot"])[Y % 2]))


def test_the_pages_of_a_run_show_the_names_of_classes(tmp_path):
    source = save_npz(tmp_path, ids=IDS, measured=X + 3 * np.eye(4)[Y], kind=KINDS[Y])
    options = ["--epochs", "1", "--model", "mlp:4", "--target", "None", "--no-measure"]
    assert run(["train", source, "--label", "kind", *options, "--out", str(tmp_path / "run")]) == 0
    assert run(["evaluate", str(tmp_path / "run"), "--attacks", "noise"]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(f">{kind}<" in page for kind in KINDS)
