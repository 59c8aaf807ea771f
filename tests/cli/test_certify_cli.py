"""``cheaplip certify`` and ``cheaplip verify``: what is proved and written, and which cards are refused."""

import csv
import json
import math
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

import cheaplip
from cheaplip.cli import run
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.card import weights_digest
from training_runs import CUBED

SHORT = ["--probe", "0", "--search", "16"]
TINY = ["--epochs", "10", "--model", "mlp:16,8", *SHORT]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("certified") / "run"
    assert run(["train", "digits", "--method", "certified", "--out", str(path), *TINY, "--no-measure"]) == 0
    assert run(["certify", str(path), "--epsilon", "0.05,0.1", "--seconds", "0.3"]) == 0
    return path


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    path = tmp_path_factory.mktemp("another") / "run"
    assert (
        run(["train", "digits", "--method", "certified", "--out", str(path), "--seed", "5", *TINY, "--no-measure"]) == 0
    )
    assert run(["certify", str(path), "--epsilon", "0.1", "--seconds", "0.3"]) == 0
    return path


CONVOLUTIONAL = """
from torch import nn

def net(shape, outputs):
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(96, 40), nn.ReLU(), nn.Linear(40, outputs),
    )

def small(shape, outputs):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, outputs),
    )

def linear(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
"""


@pytest.mark.parametrize(
    ("method", "network"),
    [
        ("certified", "small"),
        pytest.param("certified", "net", marks=pytest.mark.slow),
        pytest.param("clip+certified", "net", marks=pytest.mark.slow),
    ],
)
def test_a_convolutional_network_is_trained_for_its_certificate(method, network, tmp_path, monkeypatch):
    (tmp_path / "convolutional.py").write_text(CONVOLUTIONAL)
    monkeypatch.chdir(tmp_path)
    options = ["--method", method, "--model", f"convolutional:{network}", "--epochs", "8", *SHORT]
    assert run(["train", "digits", "--out", "runs/c", *options, "--no-measure"]) == 0
    assert run(["certify", "runs/c", "--epsilon", "0.1,0.2", "--seconds", "12"]) == 0
    metrics = json.loads((tmp_path / "runs/c/metrics.json").read_text())
    history = [json.loads(line) for line in (tmp_path / "runs/c/history.jsonl").read_text().splitlines()]
    lower, upper = metrics["lipschitz"]["lower"], metrics["lipschitz"]["upper"]
    assert lower <= upper <= 1.15 * history[-1]["bound"]  # what is proved is about what was trained: the time is short
    least = {("certified", "small"): 0.2, ("certified", "net"): 0.5, ("clip+certified", "net"): 0.05}[method, network]
    assert metrics["accuracy"]["test"] > metrics["certified"]["0.1"] > least
    assert metrics["certified"]["0.1"] > metrics["certified"]["0.2"] >= (1e-3 if method == "certified" else 0)


def test_a_bound_without_multipliers_is_trained(tmp_path, monkeypatch):
    (tmp_path / "convolutional.py").write_text(CONVOLUTIONAL)
    monkeypatch.chdir(tmp_path)
    options = ["--method", "certified", "--model", "convolutional:linear", "--epochs", "3", *SHORT]
    assert run(["train", "digits", "--out", "runs/l", *options, "--no-measure"]) == 0
    assert run(["certify", "runs/l", "--epsilon", "0.1", "--seconds", "0.3"]) == 0
    assert json.loads((tmp_path / "runs/l/metrics.json").read_text())["certified"]["0.1"] > 0.3


@pytest.fixture
def certified(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def verify(path, capsys):
    status = run(["verify", str(path), "--seconds", "0.2"])
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return status, " ".join(line for line in err.splitlines() if line.startswith(("cheaplip:", "yes:")))


def change_card(path, change):
    card = json.loads((path / "card.json").read_text())
    change(card)
    (path / "card.json").write_text(json.dumps(card))


def test_certify_writes_accuracies_radii_and_a_card(certified):
    metrics = json.loads((certified / "metrics.json").read_text())
    rows = list(csv.DictReader((certified / "certified.csv").read_text().splitlines()))
    assert [row["index"] for row in rows] == [str(i) for i in range(359)]
    for epsilon in (0.05, 0.1):
        proved = sum(row["label"] == row["prediction"] and float(row["radius"]) > epsilon for row in rows) / len(rows)
        assert metrics["certified"][str(epsilon)] == pytest.approx(proved)
    assert metrics["certified"]["0.05"] > metrics["certified"]["0.1"]
    assert metrics["lipschitz"]["lower"] <= metrics["lipschitz"]["upper"]
    card = json.loads((certified / "card.json").read_text())
    assert card["accuracy"]["certified"] == metrics["certified"]
    assert (card["bracket"]["norm"], card["bracket"]["domain"]) == (2, "Box(0, 1)")
    assert {"cheaplip", "torch", "python"} <= set(card["versions"])
    assert card["training"]["method"] == "certified"
    text = (certified / "card.md").read_text()
    assert card["model"]["sha256"] in text
    assert f"{100 * metrics['certified']['0.1']:.2f} %" in text


def test_certify_prints_a_table_or_the_metrics(certified, capsys):
    assert run(["certify", str(certified), "--epsilon", "0.1,1", "--seconds", "0.3", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert list(metrics["certified"]) == ["0.05", "0.1", "1.0"]
    assert run(["certify", str(certified), "--epsilon", "0.1", "--seconds", "0.3"]) == 0
    metrics = json.loads((certified / "metrics.json").read_text())
    assert f"{100 * metrics['certified']['0.1']:.2f} %" in capsys.readouterr().out


def test_radii_that_are_not_named_suit_the_data(finished, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    metrics = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps(metrics | {"certified": {}}))
    assert run(["certify", str(path), "--seconds", "1", "--json"]) == 0
    radius = json.loads((path / "data.json").read_text())["radii"]["epsilon"]
    radii = [float(text) for text in json.loads(capsys.readouterr().out)["certified"]]
    assert radii == pytest.approx([radius / 8, radius / 4, radius / 2], rel=0.01)


def test_a_shorter_search_certifies_everything_again(certified, capsys, monkeypatch):
    before = json.loads((certified / "metrics.json").read_text())["certified"]
    monkeypatch.setattr("cheaplip.trained.certify.bracket", looser(1.5))
    assert run(["certify", str(certified), "--epsilon", "0.02", "--seconds", "0.3"]) == 0
    monkeypatch.undo()
    after = json.loads((certified / "metrics.json").read_text())["certified"]
    assert list(after) == ["0.02", "0.05", "0.1"]
    assert after["0.1"] < before["0.1"]
    capsys.readouterr()
    status, said = verify(certified, capsys)
    assert (status, said.startswith("yes: ")) == (0, True)


def looser(factor):
    def bracket(*args, **kwargs):
        b = cheaplip.bracket(*args, **kwargs)
        return replace(b, upper=factor * b.upper)

    return bracket


def test_two_processes_cannot_certify_at_once(certified, capsys):
    with RunFolder(certified).locked():
        assert run(["certify", str(certified), "--epsilon", "0.1", "--seconds", "1"]) == 2
    assert f"another process is at work in {certified}" in capsys.readouterr().err


def test_a_true_card_is_verified(certified, capsys):
    status, said = verify(certified, capsys)
    assert status == 0
    assert said.startswith("yes: the weights and the data are those of the card")


def tampered_weights(path, _):
    weights = load_file(path / "model.safetensors")
    name = next(iter(weights))
    weights[name].view(-1)[0] += 0.125
    save_file(weights, path / "model.safetensors")


def rehashed_weights(path, _):
    tampered_weights(path, None)
    weights = load_file(path / "model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, path / "model.safetensors")
    change_card(path, lambda card: card["model"].update(sha256=weights_digest(RunFolder(path))))


def other_card(path, another):
    shutil.copy(another / "card.json", path / "card.json")


def other_card_same_options(path, another):
    other_card(path, another)
    change_card(path, lambda card: card["training"].update(seed=0))


def other_text(path, _):
    text = (path / "card.md").read_text()
    (path / "card.md").write_text(text.replace("| clean | ", "| clean | 1"))


def attacked_unknown(path, _):
    change_card(path, lambda card: card["accuracy"].update(attacked={"pgd@0.05": 0.99}))


def claim(section, **values):
    return lambda path, _: change_card(path, lambda card: card[section].update(values))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (tampered_weights, "no: model.safetensors is not the file that the card is about (SHA-256 "),
        (rehashed_weights, "no: the card says Lip(f) ≤ "),
        (other_card, "no: this is the card of another model (seed 0, the card says 5)"),
        (other_card_same_options, "no: model.safetensors is not the file that the card is about"),
        (claim("bracket", upper=0.01), "no: the card says Lip(f) ≤ 0.01, two inputs have the quotient "),
        (
            claim("bracket", domain="Box(0, 2)"),
            "no: the card is about norm 2 and the domain Box(0, 2), expected norm 2",
        ),
        (claim("accuracy", certified={"0.1": 0.999}), "no: the card says that 0.9990 is certified at ε = 0.1, here"),
        (
            claim("accuracy", attacked={"pgd@0.05": 0.1}, attacked_inputs={"pgd@0.05": 359}),
            "is above pgd@0.05 = 0.1000 on the same inputs, which cannot be",
        ),
        (claim("model", architecture="cnn"), "no: the card says model architecture 'cnn', here it is 'mlp:16,8'"),
        (claim("bracket", lower=99.0), "no: the card says Lip(f) ≥ 99, here Lip(f) ≤ "),
        (claim("bracket", lower=math.nan), "no: the card says Lip(f) ≥ nan, here Lip(f) ≤ "),
        (claim("bracket", gap=1.0), "no: the card says gap 1.0, the quotient of its own ends is "),
        (claim("bracket", upper="1"), "is not a card of 'cheaplip certify' (TypeError: expected a number, got '1')"),
        (claim("bracket", upper=10**400), "is not a card of 'cheaplip certify' (OverflowError: "),
        (attacked_unknown, "no: the card says pgd@0.05 of None inputs, expected 1 to 359"),
        (claim("accuracy", attacked={"pgd@9.0": 0.0}, attacked_inputs={"pgd@9.0": 0}), "pgd@9.0 of 0 inputs"),
        (
            claim("accuracy", attacked={"pgd@9.0": math.nan}, attacked_inputs={"pgd@9.0": 359}),
            "is above pgd@9.0 = nan on the same inputs, which cannot be",
        ),
        (other_text, "no: card.md does not say what card.json says"),
        (lambda path, _: (path / "card.json").write_text("{}"), "card.json is not a card of 'cheaplip certify'"),
        (lambda path, _: (path / "card.json").write_text("{"), "cannot read"),
        (lambda path, _: (path / "card.json").unlink(), "' writes one"),
        (lambda path, _: (path / "model.safetensors").unlink(), "no model.safetensors in "),
    ],
    ids=lambda value: getattr(value, "__name__", "").replace("<lambda>", "card") if callable(value) else "",
)
def test_an_untrue_card_is_refused_with_the_reason(spoil, reason, certified, another, capsys):
    spoil(certified, another)
    capsys.readouterr()
    status, said = verify(certified, capsys)
    assert status == 2
    assert reason in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["certify", "r", "--epsilon", "-1"], "epsilon: expected finite numbers of at least 0, got '-1'"),
        (["certify", "r", "--epsilon", "x"], "epsilon: expected numbers separated by commas, got 'x'"),
        (["certify", "r", "--epsilon", "nan"], "epsilon: expected finite numbers of at least 0, got 'nan'"),
        (["certify", "r", "--epsilon", "1", "--seconds", "-1"], "seconds: expected a finite number"),
        (["certify", "r", "--epsilon", "1"], "no metrics.json in r"),
        (["certify", "r"], "no metrics.json in r"),
        (["verify", "r"], "no card.json in r"),
        (["compare", "digits", "--out", "r", "--certify", "-1"], "certify: expected finite numbers"),
        (["train", "digits", "--out", "r", "--method", "certified", "--margin", "-1"], "margin: expected a positive"),
    ],
    ids=["negative", "text", "nan", "seconds", "no-run", "no-run-no-epsilon", "no-card", "compare", "margin"],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_model_that_cannot_be_bounded_is_not_certified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cubed.py").write_text(CUBED)
    options = ["--method", "plain", "--model", "cubed:net", "--epochs", "1", "--lr", "0.001", *SHORT]
    assert run(["train", "digits", "--out", "r", *options, "--no-measure"]) == 0
    capsys.readouterr()
    assert run(["certify", "r", "--epsilon", "0.1", "--seconds", "1"]) == 2
    err = capsys.readouterr().err
    assert "nothing is certified, for the bracket has no finite upper bound" in err
    assert "'2'" in err
    assert not (tmp_path / "r" / "certified.csv").exists()


@pytest.fixture(scope="module")
def near(finished, tmp_path_factory):
    """The run, certified around each input."""
    path = tmp_path_factory.mktemp("near") / "run"
    shutil.copytree(finished, path)
    assert run(["certify", str(path), "--epsilon", "0.1,0.5", "--seconds", "0.3", "--local"]) == 0
    return path


def test_bounds_around_each_input_prove_more(near, finished):
    whole = json.loads((finished / "metrics.json").read_text())["certified"]
    local = json.loads((near / "metrics.json").read_text())
    assert local["local"] is True
    assert local["certified"]["0.1"] >= whole["0.1"]
    assert local["accuracy"]["test"] >= local["certified"]["0.1"] > local["certified"]["0.5"] > 0


def test_a_card_of_bounds_around_each_input_is_verified(near, capsys):
    assert json.loads((near / "card.json").read_text())["bracket"]["local"] is True
    assert run(["verify", str(near), "--seconds", "0.2"]) == 0
    assert "yes: the weights" in capsys.readouterr().err


def test_a_run_that_was_certified_around_each_input_stays_so(near, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(near, path)
    before = json.loads((path / "metrics.json").read_text())["certified"]
    assert run(["certify", str(path), "--epsilon", "1", "--seconds", "0.3"]) == 0
    assert "bounds around each input" in capsys.readouterr().out
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["local"] is True
    assert metrics["certified"]["0.5"] == pytest.approx(before["0.5"], abs=0.02)
    assert run(["verify", str(path), "--seconds", "0.2"]) == 0
    assert run(["certify", str(path), "--epsilon", "1", "--seconds", "0.3", "--no-local"]) == 0
    assert "one bound for all inputs" in capsys.readouterr().out
    metrics = json.loads((path / "metrics.json").read_text())
    assert "local" not in metrics
    assert metrics["certified"]["0.5"] < before["0.5"]
    assert run(["certify", str(path), "--seconds", "0.3"]) == 0
    assert "local" not in json.loads((path / "metrics.json").read_text())
    assert run(["verify", str(path), "--seconds", "0.2"]) == 0


def test_local_and_no_local_exclude_each_other(near, capsys):
    assert run(["certify", str(near), "--local", "--no-local"]) == 2
    assert "local: expected one of --local and --no-local, got both" in capsys.readouterr().err


@pytest.fixture(scope="module")
def unproved(tmp_path_factory):
    """A run that was trained without a bound."""
    path = tmp_path_factory.mktemp("unproved") / "run"
    options = ["--method", "plain", "--activation", "relu", "--epochs", "4", "--model", "mlp:32,16", *SHORT]
    assert run(["train", "digits", "--out", str(path), *options, "--no-measure"]) == 0
    return path


WITHIN = "nothing is certified at ε = "
NEAR, TRAINED = "--local bounds the constant around each input", "a network that is trained with --method certified"


@pytest.mark.parametrize(
    ("options", "advised"),
    [
        (["--epsilon", "0,3"], f"{WITHIN}3: {NEAR}"),
        (["--epsilon", "3,4", "--local"], f"{WITHIN}3, 4: {TRAINED}"),
        (["--epsilon", "0.001,3"], ""),
        (["--epsilon", "0"], ""),
        (["--epsilon", "8"], ""),
        (["--epsilon", "3", "--json"], ""),
    ],
    ids=["global", "local", "something-certified", "only-0", "as-wide-as-the-data", "json"],
)
def test_what_can_prove_more_is_named_once_where_nothing_is_certified(options, advised, unproved, tmp_path, capsys):
    shutil.copytree(unproved, tmp_path / "run")
    assert run(["certify", str(tmp_path / "run"), "--seconds", "0.3", *options]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert advised in said
    assert said.count(WITHIN) == bool(advised)


def test_bounds_around_each_input_are_not_advised_where_an_attack_succeeds_throughout(unproved, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(unproved, path)
    metrics = json.loads((path / "metrics.json").read_text())
    attacked = {"robust": {"pgd@3.0": 0.0}, "robust_samples": {"pgd@3.0": 359}}
    (path / "metrics.json").write_text(json.dumps(metrics | attacked))
    assert run(["certify", str(path), "--seconds", "0.3", "--epsilon", "3"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert TRAINED in said
    assert NEAR not in said


def test_training_for_a_certificate_is_not_advised_after_it(near, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(near, path)
    metrics = json.loads((path / "metrics.json").read_text())
    (path / "metrics.json").write_text(json.dumps(metrics | {"certified": {}}))
    assert run(["certify", str(path), "--seconds", "0.3", "--epsilon", "7"]) == 0
    assert WITHIN not in capsys.readouterr().err


def test_a_card_that_hides_that_its_radii_are_local_is_refused(near, tmp_path, capsys):
    shutil.copytree(near, tmp_path / "edited")
    card = json.loads((tmp_path / "edited/card.json").read_text())
    del card["bracket"]["local"]
    (tmp_path / "edited/card.json").write_text(json.dumps(card))
    assert run(["verify", str(tmp_path / "edited"), "--seconds", "1"]) == 2
    assert "the card says local False, metrics.json True" in capsys.readouterr().err


def test_a_regression_has_no_bounds_around_each_input(tmp_path, capsys):
    (tmp_path / "line.csv").write_text("x,y\n" + "\n".join(f"{i / 60},{i / 30}" for i in range(60)))
    options = ["--label", "y", "--task", "regression", "--target", "0.5", "--model", "mlp:4", "--epochs", "2", *SHORT]
    assert run(["train", str(tmp_path / "line.csv"), *options, "--no-measure", "--out", str(tmp_path / "run")]) == 0
    assert run(["certify", str(tmp_path / "run"), "--epsilon", "0.1", "--seconds", "1", "--local"]) == 2
    assert "local: expected a classifier" in capsys.readouterr().err
