"""All methods beside each other: which take part, what the rows say, what is kept, what the page shows."""

import json
import re

import numpy as np
import pytest

from cheaplip.cli import run
from cheaplip.cli.compare import comparison_table
from cheaplip.cli.options import parse_methods
from cheaplip.data import load
from cheaplip.errors import DivergedError
from cheaplip.trained import compare as comparing
from cheaplip.trained.rivals import field_of
from cheaplip.training import TrainConfig
from cheaplip.training.methods import METHODS
from report_folders import own, row, write

SIZES = ["--epochs", "1", "--batch-size", "8", "--pairs", "4", "--probe", "0", "--search", "2", "--samples", "3"]
TINY = [*SIZES, "--target", "0.6"]


NORMED = """
from torch import nn

def net(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, outputs))
"""
"""A module with a model that has batch norm."""


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Sixty images of three classes, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing, "_SECONDS", 0.5)
    generator = np.random.default_rng(0)
    x = generator.random((60, 1, 4, 4), dtype=np.float32)
    np.savez("images.npz", x=x, y=(3 * x[:, 0, 0, 0]).astype(int))
    (tmp_path / "normed_images.py").write_text(NORMED)
    return tmp_path


def rivals(*options):
    return run(["rivals", "images.npz", "--model", "mlp:6", *TINY, "--out", "out", *options])


def results(folder):
    return {row["name"]: row for row in json.loads((folder / "out" / "results.json").read_text())}


def test_all_stands_for_every_registered_method():
    assert parse_methods("all") == list(METHODS)


@pytest.mark.slow
def test_every_method_takes_part_by_default(images, capsys):
    assert rivals("--attacks", "noise") == 0
    rows = results(images)
    left_out = json.loads((images / "out" / "left-out.json").read_text())
    assert {*rows, *left_out} == set(METHODS)
    assert {"plain", "clip", "trades", "groupsort", "lipschitz-margin", "free"} <= set(rows)
    for found in rows.values():
        assert len(found["certified"]) == 3
        assert found["lipschitz"]["lower"] <= found["lipschitz"]["upper"]
        assert found["seconds_relative"] > 0
    assert (rows["clip"]["target"], rows["plain"]["target"]) == (0.6, None)
    assert "× plain" in capsys.readouterr().out


@pytest.mark.slow
def test_the_attacks_are_noise_and_autoattack_at_three_radii(images):
    assert rivals("--methods", "plain") == 0
    (found,) = results(images).values()
    attacks = [key.partition("@")[0] for key in found["robust"]]
    assert sorted(attacks) == ["autoattack", "autoattack", "autoattack", "noise"]
    assert list(found["certified"]) == [key.partition("@")[2] for key in found["robust"] if key.startswith("auto")]
    assert "Accuracy under attack, and its cost" in (images / "out" / "report.html").read_text()


def test_plain_training_costs_1_and_finished_runs_are_kept(images, capsys):
    quick = ["--attacks", "noise", "--certify", "0.2"]
    assert rivals(*quick, "--methods", "plain") == 0
    assert results(images)["plain"]["seconds_relative"] == 1.0
    weights = images / "out" / "plain-seed0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert rivals(*quick, "--methods", "plain,groupsort") == 0
    assert weights.stat().st_mtime_ns == before
    rows = results(images)
    assert list(rows) == ["plain", "groupsort"]
    ratio = rows["groupsort"]["seconds_per_epoch"] / rows["plain"]["seconds_per_epoch"]
    assert rows["groupsort"]["seconds_relative"] == pytest.approx(ratio)
    assert rows["groupsort"]["lipschitz"]["upper"] < 1.01
    assert "cheaplip rivals images.npz" in json.loads((images / "out" / "command.json").read_text())["command"]


def test_a_method_that_does_not_fit_the_model_is_listed_with_the_reason(images, capsys):
    options = [
        "--model",
        "normed_images:net",
        "--batch-size",
        "8",
        "--methods",
        "plain,groupsort",
        "--attacks",
        "noise",
        "--certify",
        "0.1",
    ]
    assert run(["rivals", "images.npz", *TINY, *options, "--out", "out"]) == 0
    assert list(results(images)) == ["plain"]
    reason = "left out: groupsort: model: expected linear and convolutional layers as the only ones with weights"
    assert reason in " ".join(capsys.readouterr().err.split())
    assert "No 1-Lipschitz training: model: expected linear and conv" in (images / "out" / "report.html").read_text()


def test_compare_takes_all_methods_too(images, capsys, monkeypatch):
    monkeypatch.setattr("cheaplip.cli.options.METHODS", {name: METHODS[name] for name in ("plain", "groupsort")})
    options = ["--model", "normed_images:net", "--methods", "all", "--attacks", "noise"]
    assert run(["compare", "images.npz", *TINY, *options, "--out", "out"]) == 0
    assert list(results(images)) == ["plain"]
    assert "left out: groupsort" in capsys.readouterr().err


def test_a_method_that_is_named_and_does_not_fit_is_an_error_of_compare(images, capsys):
    options = ["--model", "normed_images:net", "--methods", "plain,groupsort", "--attacks", "noise"]
    assert run(["compare", "images.npz", *TINY, *options, "--out", "out"]) == 2
    assert "got '2' (BatchNorm1d)" in capsys.readouterr().err


def test_a_training_that_diverges_is_listed_with_the_reason(images, capsys, monkeypatch):
    train = comparing.train

    def diverging(config, *arguments, **options):
        if config.method == "trades":
            raise DivergedError("the loss became NaN")
        return train(config, *arguments, **options)

    monkeypatch.setattr(comparing, "train", diverging)
    assert rivals("--methods", "plain,trades", "--attacks", "noise", "--certify", "0.1") == 0
    assert list(results(images)) == ["plain"]
    assert "left out: trades: the loss became NaN" in capsys.readouterr().err


def test_pairs_have_a_pass_of_their_own_where_batch_norm_needs_it(images):
    config = TrainConfig(data="images.npz", model="normed_images:net", pairs=4, target=0.6, batch_size=8)
    assert field_of(config, ["clip", "plain"], load("images.npz")).configs["clip"].form == "separate"


def test_a_model_that_cannot_be_read_is_not_certified(images, capsys):
    (images / "odd.py").write_text(
        "import torch\n"
        "class Products(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.cumprod(x, 1)\n"
        "def net(shape, outputs):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, outputs), Products())\n"
    )
    options = ["--model", "odd:net", "--methods", "plain,groupsort,lipschitz-margin", "--attacks", "noise"]
    assert run(["rivals", "images.npz", *TINY, *options, "--out", "out"]) == 0
    assert results(images)["plain"]["certified"] == {}
    told = " ".join(capsys.readouterr().err.split())
    assert "nothing is certified: layer '2'" in told
    assert "left out: lipschitz-margin: layer '2'" in told


def test_numbers_are_attacked_by_pgd(images):
    x = np.random.default_rng(0).random((60, 3), dtype=np.float32)
    np.savez("numbers.npz", x=x, y=x.sum(axis=1))
    options = ["--task", "regression", "--model", "mlp:6", "--epochs", "1", "--target", "0.3", "--probe", "0"]
    assert run(["rivals", "numbers.npz", *options, "--search", "2", "--methods", "plain,trades", "--out", "out"]) == 0
    rows = results(images)
    assert {key.partition("@")[0] for key in rows["plain"]["robust"]} == {"noise", "pgd"}
    assert "does not apply to regression" in json.loads((images / "out" / "left-out.json").read_text())["trades"]


def test_a_method_whose_first_step_fails_is_listed_with_the_reason(images):
    config = TrainConfig(data="images.npz", model="mlp:6", pairs=4, batch_size=1)
    field = field_of(config, ["plain", "scale-free"], load("images.npz"))
    assert list(field.configs) == ["plain"]
    assert "expected a batch of two or more inputs, got 1" in field.left_out["scale-free"]


def test_no_method_that_fits_is_an_error(images, capsys):
    assert rivals("--methods", "clip+certified", "--held-out", "5") == 2
    assert "methods: expected one that fits, got none: held_out: expected 0" in capsys.readouterr().err


def test_the_page_plots_accuracy_under_attack_against_cost(tmp_path):
    from cheaplip.report import write_report

    rows = [row("plain", seconds_relative=1.0), row("clip", seconds_relative=1.5, peak_memory=3 * 2**20)]
    write(tmp_path / "results.json", rows)
    write(tmp_path / "left-out.json", {"groupsort": "no batch norm"})
    page = own(write_report(tmp_path))
    plots = [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    (plot,) = [each for each in plots if each["layout"]["xaxis"]["title"]["text"].startswith("time of an epoch")]
    assert [(trace["x"], trace["text"]) for trace in plot["data"]] == [
        ([1.0], ["plain, 98.0 %"]),
        ([1.5], ["clip, 97.0 %"]),
    ]
    assert plot["layout"]["xaxis"]["type"] == "log"
    assert "No 1-Lipschitz training: no batch norm" in page
    assert "times plain" in page
    assert "MiB at most" in page


def test_memory_is_shown_in_mebibytes():
    table = comparison_table("toy", [row("plain", peak_memory=3 * 2**20), row("clip", peak_memory=5 * 2**20)])
    (column,) = [column for column in table.columns if column.header == "MiB"]
    assert list(column.cells) == ["3", "5"]
