"""``train`` ends with a measurement, in less time than the training took."""

import json
import re

import numpy as np
import pytest

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.quick import measure_quickly
from training_runs import CUBED

TINY = ["--epochs", "1", "--model", "mlp:8", "--activation", "relu", "--probe", "0", "--search", "4", "--target", "0.9"]


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_train_measures_noise_an_attack_and_both_ends(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(["train", "digits", *TINY, "--out", str(out)]) == 0
    shown, metrics = capsys.readouterr().out, metrics_of(out)
    assert set(metrics["robust"]) == {"noise@0.3", "pgd@0.6"}
    assert 0 < metrics["lipschitz"]["lower"] <= metrics["lipschitz"]["upper"]
    assert re.search(r"accuracy, pgd@0.6 \(\d+ inputs\) +│", shown)
    assert "Lip(f), proved upper bound" in shown
    assert "--no-measure" not in json.loads((out / "command.json").read_text())["command"]
    before = metrics_of(out)
    measure_quickly(RunFolder(out), load("digits"))  # nothing is measured twice
    assert metrics_of(out) == before


def test_the_plain_network_stands_beside_it_and_a_missed_target_is_told(tmp_path, capsys):
    out = tmp_path / "run"
    options = [*TINY[:-2], "--lam", "50", "--rate", "0.001"]  # far too much of it
    assert run(["train", "digits", *options, "--epochs", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    plain, metrics = metrics_of(out / "reference"), metrics_of(out)
    assert plain["robust"].keys() == metrics["robust"].keys() == {"noise@0.3", "pgd@0.6"}
    assert plain["robust_samples"] == metrics["robust_samples"]
    both = [f"{100 * found['accuracy']['test']:.2f} %" for found in (metrics, plain)]
    assert re.search(rf"accuracy, test +│ +{both[0]} +│ +{both[1]} ", shown.out)
    assert "the target was missed: the accuracy on validation data is" in " ".join(shown.err.split())
    assert ">plain<" in (out / "report.html").read_text().replace("\n", "")


def test_no_measure_leaves_it_out(tmp_path):
    assert run(["train", "digits", *TINY, "--no-measure", "--out", str(tmp_path / "run")]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert metrics["robust"] == {}
    assert "upper" not in metrics["lipschitz"]


def test_the_measurement_of_a_regression_has_errors(tmp_path):
    x = np.random.default_rng(0).random((200, 3))
    np.savez(tmp_path / "x.npz", x=x, y=x.sum(axis=1))
    options = ["--task", "regression", "--epochs", "3", "--model", "mlp:8", "--probe", "0", "--target", "0.1"]
    assert run(["train", str(tmp_path / "x.npz"), *options, "--out", str(tmp_path / "run")]) == 0
    metrics = metrics_of(tmp_path / "run")
    assert {key.split("@")[0] for key in metrics["robust"]} == {"noise", "pgd"}
    assert metrics["lipschitz"]["upper"] > 0


def test_without_an_upper_end_the_reason_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cubed.py").write_text(CUBED)
    options = ["--model", "cubed:net", "--form", "separate", "--lr", "0.001", "--epochs", "1", "--probe", "0"]
    assert run(["train", "digits", *options, "--target", "None", "--out", "run"]) == 0
    ends = metrics_of(tmp_path / "run")["lipschitz"]
    assert ends.get("upper") is None
    assert "Cubed" in ends["upper_reason"]


def test_a_measurement_that_fails_does_not_fail_the_training(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise ValueError("no attack works here")

    monkeypatch.setattr("cheaplip.trained.quick.evaluate", broken)
    assert run(["train", "digits", *TINY, "--out", str(tmp_path / "run")]) == 0
    assert "warning: the trained network was not measured: no attack works here" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_the_measurement_takes_less_than_the_training(tmp_path):
    import time

    seconds = []
    for option in ("--no-measure", "--measure"):
        started = time.perf_counter()
        assert run(["train", "digits", option, "--out", str(tmp_path / option)]) == 0
        seconds.append(time.perf_counter() - started)
    assert seconds[1] < 2 * seconds[0]
