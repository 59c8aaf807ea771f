"""Regression: data, training to an error met from above, errors under noise and attack, certified intervals."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_linnerud
from torch import nn

from cheaplip import Box
from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import DataError, Interrupted
from cheaplip.lipschitz.bracket import bracket
from cheaplip.runs.folder import RunFolder
from cheaplip.training import TrainConfig, train
from cheaplip.training.consistency import ContradictionError
from cheaplip.training.tasks import TASKS, InLabelUnits, Regression
from training_runs import stop_after, timeless

NOISE = 20.0


def samples(count=400, *, seed=0):
    """y = 100·x₁ − 50·x₂² + 300 with noise of standard deviation 20, the label far from standard."""
    generator = np.random.default_rng(seed)
    x = generator.random((count, 3))
    return x, 100 * x[:, 0] - 50 * x[:, 1] ** 2 + 300 + NOISE * generator.standard_normal(count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    x, y = samples()
    lines = [f"{a},{b},{c},{price}" for (a, b, c), price in zip(x, y, strict=True)]
    (folder / "table.csv").write_text("\n".join(["a,b,c,price", *lines]))
    np.savez(folder / "table.npz", x=x, y=np.stack([y, -y], axis=1))
    (folder / "measured.py").write_text(
        "import numpy\n"
        "def data():\n"
        "    x = numpy.random.default_rng(0).random((60, 3))\n"
        "    return x, x.sum(axis=1)\n"
        "def texts():\n"
        "    return numpy.ones((60, 3)), ['a'] * 60\n"
        "def nan():\n"
        "    return numpy.ones((60, 3)), numpy.full(60, numpy.nan)\n"
        "def cube():\n"
        "    return numpy.ones((60, 3)), numpy.ones((60, 2, 2))\n"
        "def few():\n"
        "    return numpy.ones((2, 3)), numpy.ones(2)\n"
    )
    lines[7] = "1,2,3,cheap"
    (folder / "words.csv").write_text("\n".join(["a,b,c,price", *lines]))
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


DATA = ["table.csv", "--label", "price", "--task", "regression"]
TINY = ["--model", "mlp:16", "--probe", "0", "--search", "16"]


@pytest.fixture(scope="module")
def finished(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", *DATA, "--target", "25", "--epochs", "25", *TINY, "--out", "run", "--no-measure"]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("source", "label", "outputs"),
    [("table.csv", "price", 1), ("table.npz", None, 2), ("measured:data", None, 1)],
)
def test_numbers_are_split_into_three_disjoint_parts(source, label, outputs, here):
    data = load(source, label=label, task="regression")
    assert (data.task, data.outputs, data.classes) == ("regression", outputs, 0)
    parts = [data.train, data.validation, data.test]
    total = 60 if source == "measured:data" else 400
    assert [len(part.x) for part in parts] == [total * 7 // 10, total // 10, total // 5]
    assert all((part.y.dtype, part.y.shape) == (torch.float32, (len(part.x), outputs)) for part in parts)
    assert len(torch.cat([part.x for part in parts]).unique(dim=0)) == total
    again, other = (load(source, label=label, task="regression", split_seed=seed) for seed in (0, 1))
    assert torch.equal(again.test.x, data.test.x)
    assert not torch.equal(other.test.x, data.test.x)


@pytest.mark.parametrize(
    ("source", "label", "message"),
    [
        ("words.csv", "price", "words.csv, line 9, column 'price': expected a number, for --task regression, got 'ch"),
        ("table.csv", None, "expected the name of the column that holds the numbers to predict; choose one"),
        ("measured:texts", None, "measured:texts: expected y to hold numbers, one or several per sample, got <U1"),
        ("measured:nan", None, "measured:nan, y: expected finite numbers, got NaN or Inf in 60 of 60 places"),
        ("measured:cube", None, r"shape (60,) or (60, k) to go with x, got (60, 2, 2)"),
        ("measured:few", None, "expected enough samples for one in every part, got 2"),
        ("digits", None, "digits holds classes, not numbers: leave --task regression out"),
    ],
)
def test_data_that_cannot_be_used_say_why(source, label, message, here):
    with pytest.raises(DataError) as refusal:
        load(source, label=label, task="regression")
    assert message in str(refusal.value)


def test_a_run_meets_its_error_from_above_and_is_measured_in_the_labels_units(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["rmse"]["train"] == pytest.approx(25, rel=0.12)
    assert 0.8 * NOISE < metrics["rmse"]["test"] < 1.6 * NOISE
    assert 0 < metrics["mae"]["test"] < metrics["rmse"]["test"]
    assert "accuracy" not in metrics
    history = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert {"train_rmse", "validation_rmse", "validation_mae", "lam", "largest"} <= set(history[-1])
    assert history[-1]["train_rmse"] == pytest.approx(metrics["rmse"]["train"], rel=0.1)
    assert 0.3 < history[-1]["largest"] / metrics["lipschitz"]["lower"] < 1.1  # both in the labels' units
    shown = json.loads((finished / "report.json").read_text())
    assert "confusion" not in shown
    assert [len(several[0]) for several in shown["answers"].values()] == [80, 80]


def test_a_looser_target_gives_a_flatter_model(finished, here, tmp_path):
    options = ["--epochs", "25", *TINY, "--out", str(tmp_path / "run")]
    assert run(["train", *DATA, "--target", "34", *options, "--no-measure"]) == 0
    tight, loose = (json.loads((path / "metrics.json").read_text()) for path in (finished, tmp_path / "run"))
    assert loose["lipschitz"]["lower"] < 0.8 * tight["lipschitz"]["lower"]
    assert loose["rmse"]["train"] > tight["rmse"]["train"]


def test_a_short_run_does_not_end_as_a_constant(here, tmp_path):
    options = ["--target", "25", "--epochs", "5", "--seed", "2", "--probe", "0", "--search", "16"]
    assert run(["train", *DATA, *options, "--out", str(tmp_path / "run"), "--no-measure"]) == 0
    assert 0.8 * 25 < json.loads((tmp_path / "run" / "metrics.json").read_text())["rmse"]["train"] < 1.1 * 25


def test_a_table_of_twenty_rows_does_not_diverge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_linnerud(as_frame=True).frame.to_csv("table.csv", index=False)
    words = ["table.csv", "--label", "Weight", "--task", "regression", "--method", "plain", "--no-measure"]
    assert run(["train", *words, "--seed", "1", "--probe", "0", "--search", "8", "--out", "run"]) == 0
    rmse = json.loads((tmp_path / "run" / "metrics.json").read_text())["rmse"]
    assert rmse["train"] < 20  # the labels' deviation is 24


@pytest.mark.slow
def test_a_run_that_meets_its_target_late_does_not_end_unregularised(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="needs the extra cli, for a table")
    from sklearn.datasets import load_diabetes

    monkeypatch.chdir(tmp_path)
    x, y = load_diabetes(return_X_y=True)
    np.savez("diabetes.npz", x=20 * x, y=y)
    options = ["--target", "50", "--epochs", "30", "--seed", "1", "--probe", "0", "--search", "16", "--out", "run"]
    assert run(["train", "diabetes.npz", "--task", "regression", *options, "--no-measure"]) == 0
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert next(line["epoch"] for line in history if line["train_rmse"] < 50) > 10
    assert 0.8 * 50 < history[-1]["train_rmse"] < 1.1 * 50


def test_the_target_can_be_met_on_validation_data(here, tmp_path):
    options = ["--target", "30", "--target-on", "validation", "--epochs", "40", *TINY, "--out", str(tmp_path / "run")]
    assert run(["train", *DATA, *options, "--no-measure"]) == 0
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["validation_rmse"] == pytest.approx(30, rel=0.05)
    lam = [line["lam"] for line in history]
    for line, before, after in zip(history, lam, lam[1:], strict=False):  # by one epoch's figure alone
        assert 0.99 * math.exp(-0.5) < after / before < 1.01 * math.exp(0.5)
        if line["validation_rmse"] > 30:
            assert after <= before
    command = json.loads((tmp_path / "run" / "command.json").read_text())["command"]
    assert "--target-on validation" in command


def test_errors_grow_with_noise_and_under_attack_and_stay_within_the_certificate(here, finished, capsys):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert run(["evaluate", str(finished), "--epsilon", "0.05,0.2", "--json"]) == 0
    robust = json.loads(capsys.readouterr().out)["robust"]
    assert list(robust) == ["noise@0.05", "noise@0.2", "pgd@0.05", "pgd@0.2"]
    assert metrics["rmse"]["test"] < robust["pgd@0.05"] < robust["pgd@0.2"]
    assert robust["noise@0.05"] < robust["pgd@0.2"]
    assert run(["certify", str(finished), "--epsilon", "0.05,0.2", "--seconds", "0.2"]) == 0
    assert "RMSE at most, ε = 0.2" in capsys.readouterr().out
    metrics = json.loads((finished / "metrics.json").read_text())
    for key in ("0.05", "0.2"):
        assert robust[f"pgd@{key}"] <= metrics["certified"][key]
    rows = list(csv.DictReader((finished / "certified.csv").read_text().splitlines()))
    worst = [max(float(r["high@0.2"]) - float(r["label"]), float(r["label"]) - float(r["low@0.2"])) for r in rows]
    assert metrics["certified"]["0.2"] == pytest.approx(math.sqrt(np.mean(np.square(worst))), rel=1e-6)
    assert all(float(r["low@0.05"]) < float(r["prediction"]) < float(r["high@0.05"]) for r in rows)
    card = (finished / "card.md").read_text()
    assert f"| certified, ε = 0.2 | RMSE {metrics['certified']['0.2']:.5g} | 80 |" in card
    assert run(["verify", str(finished), "--seconds", "0.2"]) == 0
    content = json.loads((finished / "card.json").read_text())
    content["rmse"]["certified"]["0.2"] *= 0.9
    (finished / "card.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert run(["verify", str(finished), "--seconds", "0.2"]) == 2
    assert "is certified at ε = 0.2, here" in capsys.readouterr().err


def test_a_comparison_prints_errors(here, tmp_path, capsys):
    arguments = ["compare", *DATA, "--target", "25", "--epochs", "1", *TINY, "--epsilon", "0.1", "--noise", "0.1"]
    arguments += ["--samples", "20", "--adversarial-steps", "1"]
    assert run([*arguments, "--methods", "plain,weight,clip,adversarial", "--out", str(tmp_path / "all")]) == 0
    out = capsys.readouterr().out
    assert "errors: RMSE, in the label's units" in out
    rows = json.loads((tmp_path / "all" / "results.json").read_text())
    assert [row["target"] for row in rows] == [None, 25, 25, None]
    assert all(list(row["robust"]) == ["noise@0.1", "pgd@0.1"] for row in rows)
    command = json.loads((tmp_path / "all" / "command.json").read_text())["command"]
    assert "--task regression" in command
    assert "--target 25.0" in command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", *DATA, "--give-up", "-1%"], "give_up: expected a part of the error, at least 0, got -0.01"),
        (["compare", *DATA, "--give-up", "much"], "give_up: expected a fraction such as 0.005, or 0.5%, got 'much'"),
        (["train", *DATA, "--target", "-1"], "target: expected a positive root-mean-squared error, in the label"),
        (["train", *DATA, "--target", "1000"], "which the mean of the training labels has already, got 1000: give"),
        (["compare", *DATA, "--target", "1000"], "which the mean of the training labels has already, got 1000: give"),
        (["train", *DATA, "--method", "certified"], "method: certified does not apply to regression: expected one of"),
        (["train", *DATA, "--final-activation", "sigmoid"], "final_activation: expected none with --task regression"),
        (["train", "digits", "--task", "regresion"], "task: expected one of classification, regression, got"),
        (["train", "digits", "--task", "regression"], "digits holds classes, not numbers"),
        (["compare", *DATA, "--target", "25", "--attacks", "autoattack"], "attacks: expected one of noise, pgd, got"),
        (["compare", *DATA, "--target", "25", "--methods", "plain,certified"], "method: certified does not apply"),
    ],
)
def test_what_does_not_apply_is_refused(arguments, message, here, tmp_path, capsys):
    assert run([*arguments, "--out", str(tmp_path / "r")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not (tmp_path / "r" / "config.json").exists()


def test_an_attack_on_classes_does_not_apply(here, finished, capsys):
    assert run(["evaluate", str(finished), "--attacks", "fgsm"]) == 2
    assert "attacks: fgsm does not apply to regression" in capsys.readouterr().err


def test_a_model_from_elsewhere_is_certified_in_its_own_units(here, capsys):
    torch.save({"1.weight": torch.tensor([[3.0, 4.0, 0.0]]), "1.bias": torch.zeros(1)}, "linear.pt")
    (here / "lines.py").write_text(
        "from torch import nn\n"
        "def net(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3, outputs))\n"
    )
    arguments = ["lines:net", "--weights", "linear.pt", "--data", *DATA, "--seconds", "0.2"]
    assert run(["bracket", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["upper"] == pytest.approx(5.0)
    assert run(["certify", *arguments, "--epsilon", "2", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    data = load("table.csv", label="price", task="regression")
    errors = (data.test.x @ torch.tensor([[3.0], [4.0], [0.0]]) - data.test.y).abs()
    assert metrics["rmse"]["test"] == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-5)
    assert metrics["certified"]["2.0"] == pytest.approx(float((errors + 10).square().mean().sqrt()), rel=1e-5)


@pytest.fixture
def slope():
    model = nn.Linear(2, 1)
    model.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)})
    return model


def test_pgd_finds_the_worst_error_of_a_linear_model(slope):
    x, y = torch.full((5, 2), 0.5), torch.tensor([[3.0], [4.0], [3.4], [3.6], [0.0]])
    found = Regression().figure_under_attack("pgd", slope, x, y, epsilon=0.1, domain=Box(0.0, 1.0))
    worst = (3.5 - y).abs() + 0.5
    assert found == pytest.approx(float(worst.square().mean().sqrt()), rel=1e-3)
    assert Regression().figure_under_attack("pgd", slope, x, y, epsilon=0, domain=Box(0.0, 1.0)) == pytest.approx(
        float((3.5 - y).square().mean().sqrt())
    )


def test_an_unknown_attack_is_refused(slope):
    x = torch.full((1, 2), 0.5)
    with pytest.raises(ValueError, match=r"^attack: expected one of noise, pgd, got 'fgsm'$"):
        Regression().figure_under_attack("fgsm", slope, x, x[:, :1], epsilon=0.1, domain=Box(0.0, 1.0))


def test_noise_adds_its_variance(slope):
    x = torch.full((20_000, 2), 0.5)
    found = Regression().figure_under_attack("noise", slope, x, slope(x).detach(), epsilon=0.3, domain=Box(0.0, 1.0))
    assert found == pytest.approx(0.3 * 5, rel=0.03)


def test_certified_errors_contradicted_by_an_attack(slope):
    x, y = torch.full((4, 2), 0.5), torch.zeros(4, 1)
    certificate = Regression().certify(slope, x, y, bracket(slope, Box(0.0, 1.0), x=x, seconds=0.1), [0.1])
    assert certificate.figures["0.1"] == pytest.approx(4.0)
    figures = {"robust": {"pgd@0.1": 3.99, "noise@0.1": 9.0}, "robust_samples": {"pgd@0.1": 4, "noise@0.1": 4}}
    Regression().check_consistency(figures, certificate.table)
    with pytest.raises(ContradictionError, match=r"pgd@0\.1 = 4\.1000 is above certified@0\.1 = 4\.0000"):
        Regression().check_consistency(figures | {"robust": {"pgd@0.1": 4.1}}, certificate.table)


def test_a_standardised_network_has_one_scale_for_all_outputs():
    y = torch.tensor([[1.0, 10.0], [3.0, 50.0]])
    network = nn.Linear(2, 2)
    model = InLabelUnits(network, y)
    assert model.shift.tolist() == [2.0, 30.0]
    assert float(model.scale) == pytest.approx(math.sqrt((1 + 400) / 2))
    x = torch.rand(7, 2)
    torch.testing.assert_close(model(x), model.scale * network(x) + model.shift)
    assert float(InLabelUnits(network, torch.ones(3, 2)).scale) == 1.0
    inner, scale = TASKS["regression"].unwrap(model)
    assert inner is network
    outer_bracket, inner_bracket = (bracket(m, shape=(2,), seconds=0.1) for m in (model, network))
    assert outer_bracket.upper == pytest.approx(scale * inner_bracket.upper, rel=1e-6)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_an_interrupted_regression_continues_bit_for_bit(part, here, tmp_path):
    config = TrainConfig(
        data="table.csv",
        label="price",
        task="regression",
        target=25,
        target_on=part,
        epochs=3,
        model="mlp:8",
        probe=0,
        search=4,
    )
    data = load("table.csv", label="price", task="regression")
    whole = train(config, data, RunFolder(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(config, data, RunFolder(tmp_path / "part"), stop=stop_after(55))  # in the second epoch
    again = train(config, data, RunFolder(tmp_path / "part"), resume=True)
    assert timeless(again) == timeless(whole)
