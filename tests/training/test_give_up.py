"""The target of a run: what is given up of a plain network's accuracy, or a named one; networks that are constant."""

import dataclasses
import io
import json
import re
import warnings

import pytest
import torch
from rich.console import Console
from torch import nn

import cheaplip
from cheaplip import Box, CheaplipWarning
from cheaplip.cli import run
from cheaplip.cli.compare import comparison_table
from cheaplip.cli.console import metrics_table, show_table
from cheaplip.data import Split
from cheaplip.data.dataset import make_data
from cheaplip.errors import ConfigError, Interrupted, RunError
from cheaplip.reference import balanced_accuracy, has_rare_classes, read_fraction
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.words import constant_in_words
from cheaplip.trained.card import markdown
from cheaplip.trained.compare import compare
from cheaplip.training import TrainConfig, train
from cheaplip.training.aim import named_aim
from cheaplip.training.tasks import Regression
from training_runs import stop_after, timeless

pytestmark = pytest.mark.filterwarnings("ignore:the gradient of the cross-entropy is zero")  # of eight ReLUs
TOY = TrainConfig(data="toy", model="mlp:8", activation="relu", epochs=3, probe=0, search=4, pairs=8)


def toy(shares=(0.5, 0.5), rows=400, apart=4.0, seed=0):
    """Classes with these shares, as far apart as that; every part has the same shares."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for count in (rows, rows // 4, rows // 4):
        y = torch.cat([torch.full((max(1, round(share * count)),), k) for k, share in enumerate(shares)])
        x = torch.randn(len(y), 3, generator=generator)
        x[:, 0] += apart * y
        parts.append(Split(x, y))
    low, high = (torch.stack([part.x.aminmax()[i] for part in parts]) for i in (0, 1))
    return make_data("toy", *parts, classes=len(shares), domain=Box(float(low.min()), float(high.max())))


def regression(noise=0.1, slope=1.0, rows=200):
    generator = torch.Generator().manual_seed(0)
    parts = []
    for count in (rows, rows // 2, rows // 2):
        x = torch.rand(count, 2, generator=generator)
        parts.append(Split(x, slope * x[:, :1] + noise * torch.randn(count, 1, generator=generator)))
    return make_data("toy", *parts, classes=0, domain=Box(0.0, 1.0))


def trained(tmp_path, data, name="run", **options):
    folder = RunFolder(tmp_path / name)
    return train(dataclasses.replace(TOY, **options), data, folder), folder


@pytest.mark.parametrize(
    ("text", "value"), [("0.5%", 0.005), ("0.5 %", 0.005), ("0.005", 0.005), (0.005, 0.005), ("0", 0.0), (" 2% ", 0.02)]
)
def test_what_is_given_up_is_a_fraction_or_a_percentage(text, value):
    assert TrainConfig(data="digits", give_up=text).give_up == value


@pytest.mark.parametrize(("text", "value"), [("97%", 0.97), ("97 %", 0.97), ("0.97", 0.97), (0.97, 0.97), (None, None)])
def test_a_target_is_a_fraction_or_a_percentage(text, value):
    assert TrainConfig(data="digits", target=text).target == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "97"}, "target: expected an accuracy in (0, 1), got 97.0: 97 % is 0.97, or 97%"),
        ({"target": "100%"}, "target: expected an accuracy in (0, 1)"),
        ({"target": "high"}, "target: expected a fraction such as 0.98, or 98%, got 'high'"),
        ({"give_up": "1"}, "give_up: expected points of accuracy, from 0 to below 0.5, got 1.0: 0.5 % is 0.005"),
        ({"give_up": "0.5"}, "give_up: expected points of accuracy"),
        ({"give_up": "-1%"}, "give_up: expected points of accuracy"),
        ({"give_up": "nan"}, "give_up: expected a finite number"),
        ({"give_up": "much"}, "give_up: expected a fraction"),
        ({"give_up": -0.1, "task": "regression"}, "give_up: expected a part of the error, at least 0"),
        ({"target": 0.9, "reference": "runs/plain"}, "reference: expected with --give-up alone"),
    ],
)
def test_what_cannot_be_given_up_is_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(data="digits", **options)


def test_a_plain_network_is_trained_first_and_the_target_is_below_its_accuracy(tmp_path):
    metrics, folder = trained(tmp_path, toy(apart=3.0), give_up="2%")
    plain = RunFolder(folder.path / "reference").read_json("metrics.json")
    config = RunFolder(folder.path / "reference").read_json("config.json")
    assert (config["method"], config["epochs"], config["model"]) == ("plain", 3, "mlp:8")
    assert metrics["aim"]["reference"] == pytest.approx(plain["accuracy"]["validation"])
    assert metrics["target"] == pytest.approx(plain["accuracy"]["validation"] - 0.02)
    assert (metrics["target_on"], metrics["aim"]["figure"]) == ("validation", "accuracy")
    assert metrics["aim"]["reference_run"] == "reference"


def test_a_reference_that_is_there_is_taken(tmp_path):
    data = toy()
    trained(tmp_path, data, "plain", method="plain")
    metrics, folder = trained(tmp_path, data, reference=str(tmp_path / "plain"))
    assert not (folder.path / "reference").exists()
    assert metrics["aim"]["reference_run"] == "../plain"
    assert "(plain: " in printed(metrics)
    metrics, _ = trained(tmp_path, data, "again", reference=str(tmp_path / "run"))
    assert "(clip: " in printed(metrics)


def printed(metrics):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(metrics_table("run", metrics))
    return console.export_text()


@pytest.mark.parametrize("change", [{"split_seed": 3}, {"label": "kind"}])
def test_a_reference_about_other_data_is_refused(tmp_path, change):
    data = toy()
    trained(tmp_path, data, "plain", method="plain", **change)
    with pytest.raises(ConfigError, match=f"reference: expected a run with {next(iter(change))}"):
        trained(tmp_path, data, reference=str(tmp_path / "plain"))


def test_a_reference_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no metrics\.json"):
        trained(tmp_path, toy(), reference=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("method", ["plain", "adversarial", "scale-free"])
def test_methods_that_are_not_steered_need_no_reference(method, tmp_path):
    metrics, folder = trained(tmp_path, toy(), method=method, adversarial_steps=1)
    assert not (folder.path / "reference").exists()
    assert "target" not in metrics


@pytest.mark.parametrize("target", [0.9, None])
def test_a_named_target_and_a_fixed_weight_need_no_reference(target, tmp_path):
    metrics, folder = trained(tmp_path, toy(), target=target)
    assert not (folder.path / "reference").exists()
    assert "aim" not in metrics


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"), toy())[0]


@pytest.mark.parametrize("steps", [5, 100, 200], ids=["in-the-reference", "between", "in-the-run"])
def test_resuming_continues_both_trainings(steps, whole, tmp_path):
    data = toy()
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(Interrupted):
        train(TOY, data, folder, stop=stop_after(steps))
    assert not (folder.path / "metrics.json").exists()
    resumed = train(TOY, data, folder, resume=True)
    assert timeless(resumed) == timeless(whole)


def test_a_run_of_the_default_target_of_older_versions_is_resumed_with_it(tmp_path):
    data, folder = toy(), RunFolder(tmp_path / "run")
    old = dataclasses.replace(TOY, target=0.98, target_on="train")
    with pytest.raises(Interrupted):
        train(old, data, folder, stop=stop_after(50))
    saved = folder.read_json("config.json")
    folder.write_json("config.json", {key: saved[key] for key in saved if key not in ("give_up", "reference")})
    train(TOY, data, folder, resume=True)
    assert not (folder.path / "reference").exists()


def test_overwriting_trains_the_reference_again(tmp_path):
    _, folder = trained(tmp_path, toy())
    data = toy(apart=1.0)
    metrics = train(TOY, data, folder, overwrite=True)
    plain = RunFolder(folder.path / "reference").read_json("metrics.json")
    assert metrics["aim"]["reference"] == pytest.approx(plain["accuracy"]["validation"])
    assert plain["accuracy"]["validation"] < 0.9


@pytest.mark.parametrize(
    ("shares", "rare"),
    [((0.98, 0.02), True), ((0.95, 0.03, 0.02), True), ((0.74, 0.26), False), ((0.76, 0.24), True)],
)
@pytest.mark.filterwarnings("ignore:the plain network")  # so short a training learns little
def test_with_rare_classes_the_balanced_accuracy_counts(shares, rare, tmp_path):
    data = toy(shares, rows=800, apart=8.0)
    assert has_rare_classes(data.train.y, len(shares)) == rare
    metrics, _ = trained(tmp_path, data, epochs=1)
    assert metrics["aim"]["figure"] == ("balanced_accuracy" if rare else "accuracy")
    assert ("balanced_accuracy" in metrics) == rare


@pytest.mark.parametrize(
    "shares",
    [pytest.param((0.98, 0.02), id="two", marks=pytest.mark.slow), pytest.param((0.95, 0.03, 0.02), id="three")],
)
def test_a_network_for_rare_classes_finds_them(shares, tmp_path):
    data = toy(shares, rows=1000, apart=10.0)
    metrics, _ = trained(tmp_path, data, epochs=15)
    assert metrics["aim"]["reference"] > 0.9
    assert metrics["target"] > 1 / len(shares)
    assert metrics["balanced_accuracy"]["test"] > 0.8
    assert "constant_answer" not in metrics


def test_a_validation_part_without_a_class_is_replaced_by_the_training_part(tmp_path):
    data = toy((0.98, 0.02), apart=8.0)
    x, y = data.validation
    data = dataclasses.replace(data, validation=Split(x[y == 0], y[y == 0]))
    with pytest.warns(CheaplipWarning, match="the validation data has no input of class 1"):
        metrics, _ = trained(tmp_path, data)
    assert (metrics["target_on"], metrics["aim"]["figure"]) == ("train", "balanced_accuracy")


def test_where_nothing_was_learnt_there_is_nothing_to_give_up(tmp_path):
    data = toy((0.7, 0.3), apart=0.0)
    with pytest.warns(CheaplipWarning, match="is no better on validation data than one answer for all inputs"):
        metrics, folder = trained(tmp_path, data, epochs=1)
    assert metrics["target"] is None
    assert {line["lam"] for line in folder.history()} == {dataclasses.replace(TOY).first_lam}


@pytest.mark.parametrize("target", [0.98, 0.9])
def test_a_named_target_that_a_constant_answer_meets_is_warned_of(target):
    config = dataclasses.replace(TOY, target=target)
    with pytest.warns(CheaplipWarning, match=r"no more than always answering 0 reaches \(98 %\)"):
        named_aim(config, toy((0.98, 0.02)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named_aim(dataclasses.replace(TOY, target=0.99), toy((0.98, 0.02)))
        named_aim(dataclasses.replace(TOY, target=0.9), toy())
        named_aim(dataclasses.replace(TOY, target=None), toy((0.98, 0.02)))
        named_aim(dataclasses.replace(TOY, target=0.5, method="plain"), toy((0.98, 0.02)))


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("0.98%", "98%"),
        (0.0098, "98%"),
        ("0.995 %", "99.5%"),
        ("0.7%", "70%"),
        ("1%", None),
        ("40%", None),
    ],
)
def test_a_fraction_with_a_percent_sign_is_suggested_without_it(target, meant):
    words = f"or name a higher one; if {meant} was meant, write --target {meant}" if meant else "or name a higher one"
    with pytest.warns(CheaplipWarning, match=f"{re.escape(words)}$"):
        named_aim(dataclasses.replace(TOY, target=target), toy())


def test_a_network_with_one_class_for_all_inputs_is_called_that(tmp_path, capsys):
    # Six different inputs, each in about 67 rows with at most two 'yes': whatever fits the rows says 'no' to all.
    lines = ["a,b,fraud", *(f"{i % 2},{i % 3},{'yes' if i < 8 else 'no'}" for i in range(400))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    options = [
        "--label",
        "fraud",
        "--epochs",
        "5",
        "--model",
        "mlp:8",
        "--probe",
        "0",
        "--search",
        "8",
        "--target",
        "97%",
        "--no-measure",
    ]
    out = tmp_path / "run"
    assert run(["train", str(tmp_path / "x.csv"), *options, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "target: 97 % is no more than always answering 'no' reaches (98.21 %)" in shown.err
    assert re.search(r"one class for all inputs +│ +no │", shown.out)
    assert json.loads((out / "metrics.json").read_text())["constant_answer"] == "no"
    where = "for all inputs of the test and validation data"
    sentence = f"It predicts one class, 'no', {where}: it tells no two of them apart."
    assert sentence.replace("'", "&#39;") in (out / "report.html").read_text()
    assert run(["certify", str(out), "--epsilon", "0.1", "--seconds", "0.2"]) == 0
    assert sentence in (out / "card.md").read_text()
    card = json.loads((out / "card.json").read_text())
    assert sentence in markdown(card)
    del card["constant_answer"]  # as in older cards
    assert sentence not in markdown(card)


def test_a_comparison_trains_one_plain_network(tmp_path):
    configs = {
        "plain": dataclasses.replace(TOY, method="plain", probe=2),
        "weight": dataclasses.replace(TOY, method="weight"),
        "clip": dataclasses.replace(TOY, probe=2),
    }
    data = toy(apart=3.0)
    rows = compare({name: configs[name] for name in ("clip", "weight", "plain")}, [0], data, tmp_path, attacks=[])
    assert [row["name"] for row in rows] == ["clip", "weight", "plain"]
    assert rows[0]["target"] == rows[1]["target"] == rows[2]["accuracy"]["validation"] - 0.005
    assert rows[2]["target"] is None
    assert rows[0]["aim"]["reference_run"] == "../plain-seed0"
    assert not list(tmp_path.glob("**/reference*"))


def test_the_table_of_a_comparison_names_constant_networks(capsys):
    figures = {"accuracy": {"train": 0.98, "test": 0.98}, "robust": {}, "certified": {}, "seconds_per_epoch": 1.0}
    rows = [{"name": name, **figures, "lipschitz": {"lower": 1.0}} for name in ("plain", "clip")]
    show_table(comparison_table("toy", rows))
    assert "note" not in capsys.readouterr().out
    rows[1]["constant_answer"] = "no"
    show_table(comparison_table("toy", rows))
    lines = capsys.readouterr().out.splitlines()
    assert [("one class for all inputs" in line) for line in lines if "plain" in line or "clip" in line] == [
        False,
        True,
    ]


def test_a_comparison_without_a_plain_row_trains_one_network_for_all(tmp_path):
    configs = {"weight": dataclasses.replace(TOY, method="weight"), "clip": TOY}
    rows = compare(configs, [0], toy(), tmp_path, attacks=[])
    assert [path.name for path in tmp_path.glob("**/reference*")] == ["reference-seed0"]
    assert rows[0]["target"] == rows[1]["target"]


def test_in_regression_a_part_of_the_error_is_given_up(tmp_path):
    metrics, _ = trained(tmp_path, regression(), task="regression", epochs=30, give_up="10%")
    aim = metrics["aim"]
    assert aim["figure"] == "rmse"
    assert metrics["target"] == pytest.approx(1.1 * aim["reference"])


def test_labels_that_are_all_equal_leave_nothing_to_give_up(tmp_path):
    with pytest.warns(CheaplipWarning, match="there is nothing to give up"):
        metrics, _ = trained(tmp_path, regression(noise=0.0, slope=0.0), task="regression", epochs=1)
    assert metrics["target"] is None


def test_a_regression_that_predicts_one_number_is_called_that():
    model, data = nn.Linear(2, 1), regression()
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, 0.25)
    assert Regression().constant_answer(model, [data.test, data.train], ()) == "0.25"
    nn.init.ones_(model.weight)
    assert Regression().constant_answer(model, [data.test, data.train], ()) == ""
    assert constant_in_words({"rmse": {}, "constant_answer": "0.25"}).startswith("It predicts 0.25 for all inputs")


@pytest.mark.parametrize(("balanced", "reached"), [(False, 0.9), (True, 0.875)], ids=["accuracy", "balanced"])
def test_reference_target_in_a_loop_of_ones_own(balanced, reached):
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    x = torch.tensor([[1.0, 0.0]] * 70 + [[0.0, 1.0]] * 30)
    y = torch.tensor([0] * 60 + [1] * 10 + [1] * 30)  # accuracy 0.9; 60 of 60 and 30 of 40
    found = cheaplip.reference_target(model, x, y, give_up="2%", balanced=balanced)
    assert found == pytest.approx(reached - 0.02)
    model.train()
    cheaplip.reference_target(model, x, y)
    assert model.training


def test_reference_target_says_what_is_wrong():
    model, x = nn.Linear(2, 2), torch.zeros(10, 2)
    with pytest.raises(ValueError, match="better than always giving the same answer"):
        cheaplip.reference_target(model, x, torch.tensor([0, 1] * 5))
    with pytest.raises(ValueError, match="y: expected classes"):
        cheaplip.reference_target(model, x, torch.arange(1, 11))
    with pytest.raises(ValueError, match="as many labels as inputs"):
        cheaplip.reference_target(model, x, torch.zeros(3).long())
    eye = nn.Linear(2, 2, bias=False)
    nn.init.eye_(eye.weight)
    x = torch.tensor([[1.0, 0.0]] * 49 + [[0.0, 1.0]])
    with pytest.warns(CheaplipWarning, match="use balanced=True"):
        target = cheaplip.reference_target(eye, x, torch.tensor([0] * 49 + [1]), give_up=0)
    assert target == 0.99  # a perfect accuracy less half an input


def test_reference_target_of_numbers_is_an_error():
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    x = torch.linspace(0, 10, 11)[:, None]
    assert cheaplip.reference_target(model, x, x + 0.5, give_up="10%") == pytest.approx(0.55)


def test_balanced_accuracy_is_the_mean_over_the_classes_that_occur():
    y = torch.tensor([0, 0, 0, 0, 2, 2])
    assert balanced_accuracy(torch.tensor([0, 0, 0, 1, 2, 0]), y) == pytest.approx((0.75 + 0.5) / 2)
    assert read_fraction("x", "0.7%") == 0.007


def test_the_percent_sign_may_stand_alone_on_the_command_line(tmp_path):
    arguments = [
        "train",
        "digits",
        "--give-up",
        "1",
        "%",
        "--epochs",
        "1",
        "--model",
        "mlp:8",
        "--probe",
        "0",
        "--search",
        "8",
        "--no-measure",
    ]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["give_up"] == 0.01
