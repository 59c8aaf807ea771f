"""A frontier of data of every kind, of amounts in every form, and in folders that something has happened to."""

import csv
import json
import shutil
import warnings

import numpy as np
import pytest

from cheaplip.cli import run
from cheaplip.cli.options import parse_fractions
from cheaplip.errors import CheaplipWarning, ConfigError
from cheaplip.trained.frontier import frontier, points_of
from cheaplip.training import TrainConfig
from training_runs import timeless

TINY = ["--epochs", "2", "--model", "mlp:8", "--activation", "relu", "--probe", "0", "--search", "2", "--samples", "8"]
NAMES = ["plain", "clip 2 %", "weight 2 %"]


def rows_of(folder):
    return json.loads((folder / "results.json").read_text())


def blobs(count=120, classes=2):
    generator = np.random.default_rng(0)
    y = np.arange(count) % classes
    return generator.standard_normal((count, 3)) + 3 * y[:, None], y


def write_table(x, labels, *, separator=",", decimal=".", words=None):
    with open("mine.csv", "w", newline="") as file:  # noqa: PTH123
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["a", "b", "c", *(["kind"] if words else []), "label"])
        for number, (row, label) in enumerate(zip(x, labels, strict=True)):
            cells = [f"{value:.4f}".replace(".", decimal) for value in row]
            cells[0] = "" if words and number % 9 == 0 else cells[0]
            writer.writerow([*cells, *([words[number % len(words)]] if words else []), label])
    return ["mine.csv", "--label", "label"]


def table(**options):
    x, y = blobs()
    return write_table(x, np.array(["no", "yes"])[y], **options)


def rare():
    x, _ = blobs()
    return write_table(x, ["yes" if number % 10 == 0 else "no" for number in range(len(x))])


def noise():
    generator = np.random.default_rng(1)
    return write_table(generator.standard_normal((120, 3)), generator.integers(0, 2, 120))


def one_class_short():
    x, y = blobs(classes=3)
    np.savez(
        "parts.npz", x_train=x[:80], y_train=y[:80], x_val=x[80:96:3], y_val=y[80:96:3], x_test=x[96:], y_test=y[96:]
    )
    return ["parts.npz"]


def numbers():
    x, _ = blobs()
    return [*write_table(x, x.sum(axis=1)), "--task", "regression"]


def several_numbers():
    x, _ = blobs()
    np.savez("several.npz", x=x, y=np.stack([x[:, 0], 1e6 * x[:, 1]], axis=1))
    return ["several.npz", "--task", "regression"]


def images(channels):
    generator = np.random.default_rng(0)
    y = np.arange(60) % 2
    shape = (60, 6, 6) if channels == 1 else (60, 6, 6, channels)
    lit = y.reshape(-1, *[1] * (len(shape) - 1))
    np.savez("images.npz", x=(generator.integers(0, 120, shape) + 120 * lit).astype("uint8"), y=y)
    return ["images.npz"]


def given_parts():
    x, y = blobs()
    np.savez("parts.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    return ["parts.npz"]


def function(returns):
    with open("made.py", "w") as file:  # noqa: PTH123
        file.write(
            "import numpy, torch\n"
            "from cheaplip import Box\n"
            "from cheaplip.data import Data, Split\n"
            "x = torch.rand(90, 3, generator=torch.Generator().manual_seed(0))\n"
            "y = (x.sum(1) > 1.5).long()\n"
            "def arrays():\n    return x.numpy(), y.numpy()\n"
            "def whole():\n"
            "    parts = [Split(x[i:i + 30], y[i:i + 30]) for i in (0, 30, 60)]\n"
            "    return Data('made', *parts, 2, Box(0.0, 1.0), 0.1, 0.05)\n"
        )
    return [f"made:{returns}"]


def one_feature():
    x, y = blobs()
    np.savez("one.npz", x=x[:, :1], y=y)
    return ["one.npz"]


def few():
    x, y = blobs(count=20)
    np.savez("few.npz", x=x, y=y)
    return ["few.npz"]


def many_classes():
    x, y = blobs(count=200, classes=10)
    np.savez("many.npz", x=x, y=y)
    return ["many.npz"]


DATA = {
    "a table": table,
    "semicolons and decimal commas": lambda: table(separator=";", decimal=","),
    "tabs": lambda: table(separator="\t"),
    "categories and missing numbers": lambda: table(words=["red", "green", "blue"]),
    "a rare class": rare,
    "nothing to learn": noise,
    "a class that validation lacks": one_class_short,
    "numbers": numbers,
    "several numbers in unlike units": several_numbers,
    "grey images of bytes": lambda: images(1),
    "colour images of bytes": lambda: images(3),
    "a given split": given_parts,
    "a function of arrays": lambda: function("arrays"),
    "a function of a whole data set": lambda: function("whole"),
    "one feature": one_feature,
    "twenty rows": few,
    "ten classes": many_classes,
}


@pytest.mark.parametrize("case", DATA)
def test_a_frontier_of_data_of_every_kind(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["frontier", *DATA[case](), *TINY, "--give-up", "2%", "--jobs", "1", "--out", "f"]
    monkeypatch.delitem(__import__("sys").modules, "made", raising=False)
    assert run(arguments) == 0, capsys.readouterr().err
    rows = rows_of(tmp_path / "f")
    figure = "rmse" if "--task" in arguments else "accuracy"
    assert [row["name"] for row in rows] == NAMES
    assert all(row[figure]["test"] >= 0 and len(row["robust"]) == 2 for row in rows)
    steered = [row["target"] for row in rows[1:]]
    if case == "nothing to learn":
        assert "nothing to give up" in " ".join(capsys.readouterr().err.split()) or None not in steered
    else:
        assert steered[0] == steered[1]  # one plain network for both
    if case == "a rare class":
        assert rows[1]["aim"]["figure"] == "balanced_accuracy"
    assert "What stability costs" in (tmp_path / "f" / "report.html").read_text()
    monkeypatch.setattr("cheaplip.training.run.Training", None)
    assert run(arguments) == 0  # it is finished
    assert rows_of(tmp_path / "f") == rows


def test_a_file_that_has_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(data="mine.csv", label="label", model="mlp:4", epochs=1, probe=0, search=1)
    read = []
    for count, out in ((60, "one"), (90, "two")):
        x, y = blobs(count)
        write_table(x, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheaplipWarning)
            frontier(config, [0.02], tmp_path / out)
        read.append(sum(json.loads((tmp_path / out / "plain-seed0" / "data.json").read_text())["parts"]))
    assert read == [60, 90]


AMOUNTS = {
    "one": ("0.5%", [0.005]),
    "nothing": ("0", [0.0]),
    "a fraction": ("0.02", [0.02]),
    "with blanks": (" 1 % , 2 % ", [0.01, 0.02]),
    "in any order": ("2%,0,1%", [0.0, 0.01, 0.02]),
    "twice, in two forms": ("1%,0.01,1e-2", [0.01]),
    "tiny": ("0.001%", [1e-5]),
    "almost half": ("49.9%", [0.499]),
    "without a rest of rounding": ("0.7%", [0.007]),
}


@pytest.mark.parametrize("case", AMOUNTS)
def test_amounts_in_every_form(case):
    text, amounts = AMOUNTS[case]
    points = points_of(TrainConfig(data="digits"), parse_fractions("give-up", text))
    assert [point.give_up for point in points] == [None, *amounts, *amounts]
    assert len({point.folder for point in points}) == len(points)


@pytest.mark.parametrize("text", ["50%", "-1%", "nan", "inf", "1%%", "", "1%;2%", "one"])
def test_amounts_that_are_none(text):
    with pytest.raises((ConfigError, ValueError), match=r"^give.up: expected "):
        points_of(TrainConfig(data="digits"), parse_fractions("give-up", text))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier") / "f"
    assert run(["frontier", "digits", *TINY, "--give-up", "2%", "--jobs", "1", "--out", str(folder)]) == 0
    return folder


def remove(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def cut(name):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


HAPPENED = {
    "the table is gone": (remove("results.json"), ""),
    "the page is gone": (remove("report.html"), ""),
    "half of the table": (cut("results.json"), ""),
    "a row is gone": (remove("clip/row.json"), ""),
    "a network is gone": (remove("clip"), ""),
    "the plain network is gone": (remove("plain"), ""),
    "a checkpoint is gone": (remove("weight/checkpoint.safetensors"), ""),
    "a figure is gone": (remove("clip/row.json", "clip/metrics.json"), ""),
    "another file": (lambda folder: (folder / "notes.txt").write_text("mine"), ""),
    "half of a row": (cut("clip/row.json"), "row.json"),
    "half of what it is about": (cut("frontier.json"), "frontier.json"),
    "what it is about is gone": (remove("frontier.json"), "exists and is not empty"),
}


@pytest.mark.parametrize("case", HAPPENED)
def test_a_folder_that_something_has_happened_to(case, finished, tmp_path, capsys):
    change, problem = HAPPENED[case]
    folder = tmp_path / "f"
    shutil.copytree(finished, folder)
    short = {path.name.split("_")[0].split("-")[0]: path for path in folder.iterdir() if path.is_dir()}
    for name, path in short.items():
        path.rename(folder / name)
    change(folder)
    for name, path in short.items():
        if (folder / name).exists():
            (folder / name).rename(path)
    code = run(["frontier", "digits", *TINY, "--give-up", "2%", "--jobs", "1", "--out", str(folder)])
    err = capsys.readouterr().err
    if problem:
        assert code == 2
        assert problem in err
        assert "Traceback" not in err
        return
    assert code == 0, err
    assert timeless(rows_of(folder)) == timeless(rows_of(finished))
    assert (folder / "report.html").is_file()
