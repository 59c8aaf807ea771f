"""Training runs: what they leave, that they repeat and resume bit for bit, where λ ends, which options are refused."""

import dataclasses
import json
import re
import statistics

import pytest
import torch
from sklearn import datasets

from cheaplip.data import load
from cheaplip.errors import ConfigError, DivergedError, Interrupted, RunError
from cheaplip.runs.checkpoints import unpack
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.compare import Attack, compare, summarise
from cheaplip.trained.evaluate import evaluate
from cheaplip.training.config import TrainConfig, from_json
from cheaplip.training.loop import Training
from cheaplip.training.methods import METHODS
from cheaplip.training.run import train
from training_runs import QUICK, stop_after, timeless


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.mark.parametrize("method", ["plain", "weight", "clip", "adversarial"])
def test_every_method_learns_and_leaves_a_whole_folder(method, digits, tmp_path):
    config = dataclasses.replace(QUICK, method=method, adversarial_epsilon=0.1, probe=2)
    folder = RunFolder(tmp_path / "run")
    metrics = train(config, digits, folder)
    assert metrics["accuracy"]["test"] > 0.5
    assert metrics["lipschitz"]["lower"] > 0
    assert metrics == folder.read_json("metrics.json")
    assert from_json(folder.read_json("config.json")) == config
    assert [line["epoch"] for line in folder.history()] == [1, 2, 3]
    tracked = all("tracking" in line and "largest" in line for line in folder.history())
    assert tracked == (method == "clip")
    names = {path.name for path in folder.path.iterdir()}
    assert {"model.safetensors", "checkpoint.safetensors", "checkpoint.json", "witness.safetensors"} <= names


@pytest.mark.parametrize("form", ["joint", "separate"])
def test_same_seed_same_metrics_and_another_seed_others(form, digits, tmp_path):
    config = dataclasses.replace(QUICK, form=form)
    one = train(config, digits, RunFolder(tmp_path / "one"))
    torch.rand(3)  # the global state must not matter
    same = train(config, digits, RunFolder(tmp_path / "same"))
    other = train(dataclasses.replace(config, seed=1), digits, RunFolder(tmp_path / "other"))
    assert timeless(one) == timeless(same)
    assert timeless(RunFolder(tmp_path / "one").history()) == timeless(RunFolder(tmp_path / "same").history())
    assert one["accuracy"] != other["accuracy"]


def test_training_leaves_the_global_random_state_alone(digits, tmp_path):
    state = torch.random.get_rng_state()
    train(QUICK, digits, RunFolder(tmp_path / "run"))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture(scope="module", params=["clip", "weight", "adversarial"])
def uncut(request, digits, tmp_path_factory):
    """A method's options, what its whole run measured, and its folder."""
    config = dataclasses.replace(QUICK, method=request.param, adversarial_steps=2, probe=2)
    folder = RunFolder(tmp_path_factory.mktemp(request.param) / "whole")
    return config, train(config, digits, folder), folder


@pytest.mark.parametrize("steps", [5, 40, 85], ids=["mid-epoch", "end-of-epoch", "third-epoch"])
def test_an_interrupted_run_continues_bit_for_bit(uncut, steps, digits, tmp_path):
    config, whole, whole_folder = uncut
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(Interrupted):
        train(config, digits, folder, stop=stop_after(steps))
    assert "metrics.json" not in {path.name for path in folder.path.iterdir()}
    resumed = train(config, digits, folder, resume=True)
    assert timeless(resumed) == timeless(whole)
    assert timeless(folder.history()) == timeless(whole_folder.history())


def test_a_finished_run_is_not_trained_again(digits, tmp_path, monkeypatch):
    metrics = train(QUICK, digits, RunFolder(tmp_path / "run"))
    monkeypatch.setattr("cheaplip.training.run.Training", None)
    assert train(QUICK, digits, RunFolder(tmp_path / "run"), resume=True) == metrics


def test_resuming_with_other_options_is_refused(digits, tmp_path):
    train(QUICK, digits, RunFolder(tmp_path / "run"))
    changed = dataclasses.replace(QUICK, epochs=4)
    with pytest.raises(RunError, match=re.escape("with other options (epochs was 3, now 4)")):
        train(changed, digits, RunFolder(tmp_path / "run"), resume=True)


def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(digits, tmp_path):
    folder = RunFolder(tmp_path / "run")
    trainer_step = Training.run_epoch

    def poisoned(self, on_step):
        if self.epoch == 1:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
        return trainer_step(self, on_step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "run_epoch", poisoned)
        with pytest.raises(DivergedError, match=r"NaN or infinite at step 40 \(epoch 2\); the checkpoint before"):
            train(QUICK, digits, folder)
    checkpoint = unpack(folder.load_checkpoint())
    assert checkpoint["epoch"] == 1
    assert all(torch.isfinite(t).all() for t in checkpoint["model"].values())


def test_lambda_is_steered_to_the_target(digits, tmp_path):
    config = dataclasses.replace(QUICK, epochs=40, target=0.95, model="mlp:40")
    furthest, off, tracking = [], [], []
    for seed in (0, 1, 2):  # which seed does best depends on the processor's rounding
        folder = RunFolder(tmp_path / f"seed{seed}")
        train(dataclasses.replace(config, seed=seed, probe=0 if seed else 4), digits, folder)
        last = folder.history()[-13:]
        furthest.append(max(abs(line["train_accuracy"] - 0.95) for line in last))
        off.append(abs(statistics.fmean(line["train_accuracy"] for line in last) - 0.95))
        tracking += [line["tracking"] for line in last if not seed]
    assert statistics.median(furthest) < 0.02
    assert statistics.fmean(off) < 0.005
    assert statistics.fmean(tracking) >= 0.8


def test_without_a_target_lambda_stays(digits, tmp_path):
    metrics = train(dataclasses.replace(QUICK, target=None, lam=0.25), digits, RunFolder(tmp_path / "run"))
    assert metrics["lam"] == 0.25


def test_evaluation_joins_the_metrics(digits, tmp_path):
    folder = RunFolder(tmp_path / "run")
    train(QUICK, digits, folder)
    evaluate(folder, attacks=["noise"], epsilons=[0.5], samples=50)
    metrics = evaluate(folder, attacks=["pgd", "pgd-sign"], epsilons=[0.0, 0.5], samples=50, data=digits)
    robust = folder.read_json("metrics.json")["robust"]
    assert metrics["robust"] == robust
    assert list(robust) == ["noise@0.5", "pgd@0.0", "pgd@0.5", "pgd-sign@0.0", "pgd-sign@0.5"]
    assert robust["pgd@0.5"] < robust["pgd@0.0"] == robust["pgd-sign@0.0"]


def test_evaluation_needs_a_finished_run(tmp_path):
    with pytest.raises(RunError, match=r"no metrics\.json"):
        evaluate(RunFolder(tmp_path), attacks=["noise"], epsilons=[1.0])


def test_comparison_rows_summary_and_continuation(digits, tmp_path, monkeypatch):
    configs = {name: dataclasses.replace(QUICK, method=name, epochs=1) for name in ("plain", "clip")}
    attacks = [Attack("noise", 0.5, 50), Attack("pgd", 0.5, 50)]
    rows = compare(configs, [0, 1], digits, tmp_path, attacks=attacks)
    assert [(row["name"], row["method"], row["target"], row["seed"]) for row in rows] == [
        ("plain", "plain", None, 0),
        ("clip", "clip", 0.9, 0),
        ("plain", "plain", None, 1),
        ("clip", "clip", 0.9, 1),
    ]
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    plain, clip = summarise(rows)
    assert (plain.name, plain.seeds, clip.name) == ("plain", 2, "clip")
    tests = [row["accuracy"]["test"] for row in rows if row["method"] == "clip"]
    mean, spread = clip.columns["test"]
    assert mean == pytest.approx(sum(tests) / 2)
    assert spread == pytest.approx(abs(tests[0] - tests[1]) / 2**0.5)
    assert "lam" not in plain.columns
    monkeypatch.setattr("cheaplip.training.run.Training", None)  # nothing is trained, nothing attacked again
    monkeypatch.setattr("cheaplip.trained.compare.evaluate", None)
    assert compare(configs, [0, 1], digits, tmp_path, attacks=attacks) == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "clipp"},
            f"method: expected one of {', '.join(METHODS)}, got 'clipp'; did you mean 'clip'?",
        ),
        ({"target": 1.0}, "target: expected an accuracy in (0, 1), got 1.0"),
        ({"target": 97.0}, "97 % is 0.97"),
        ({"lam": -0.1}, "lam: expected a finite number of at least 0, got -0.1"),
        ({"lam": float("nan")}, "lam: expected a finite number"),
        ({"lam": 0.0}, "lam: 0 can never move towards the target"),
        ({"mu": 0.0}, "mu: 0 can never move towards the target"),
        ({"pairs": 0}, "pairs: expected a whole number of 1 or more, got 0"),
        ({"epochs": 0}, "epochs: expected a whole number of 1 or more, got 0"),
        ({"lr": 0.0}, "lr: expected a positive number, got 0.0"),
        ({"momentum": 1.0}, "momentum: expected a number in [0, 1), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay: expected a finite number of at least 0"),
        ({"activation": "swish"}, "activation: expected one of sigmoid"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected epochs, such as 1, or minutes, such as 10m, got 0"),
        ({"checkpoint_every": "0m"}, "or minutes, such as 10m, got '0m'"),
        ({"checkpoint_every": "10 s"}, "or minutes, such as 10m, got '10 s'"),
        ({"form": "both"}, "form: expected one of joint, separate, got 'both'"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_options_out_of_range_say_what_was_expected(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(QUICK, **change)


def test_a_newer_configuration_is_refused():
    with pytest.raises(ConfigError, match="unknown options turbo"):
        from_json({"data": "digits", "turbo": True})


@pytest.mark.parametrize(("load_table", "label"), [("iris", "target"), ("wine", "target")])
def test_the_usual_settings_learn_small_tables(load_table, label, tmp_path):
    frame = getattr(datasets, f"load_{load_table}")(as_frame=True).frame
    frame.to_csv(tmp_path / "table.csv", index=False)
    config = TrainConfig(data=str(tmp_path / "table.csv"), label=label, probe=0, search=16)
    metrics = train(config, load(config.data, label=label), RunFolder(tmp_path / "run"))
    plain = RunFolder(tmp_path / "run" / "reference").read_json("metrics.json")
    assert min(metrics["accuracy"]["test"], plain["accuracy"]["test"]) >= 0.9
    assert metrics["lipschitz"]["lower"] < plain["lipschitz"]["lower"] < 60


def test_a_long_gradient_is_shortened(digits):
    training = Training(dataclasses.replace(QUICK, method="plain", lr=0.01), digits)
    with torch.no_grad():
        for parameter in training.network.parameters():
            parameter.mul_(50)
    lengths = []

    def look():
        gradients = [parameter.grad for parameter in training.network.parameters()]
        lengths.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        return True

    training.run_epoch(look)
    assert lengths == [pytest.approx(1.0, rel=1e-4)]


@pytest.mark.parametrize(("batch_size", "lr"), [(2, 0.25), (8, 1.0), (128, 1.0)])
def test_small_batches_take_shorter_steps_unless_a_rate_is_named(batch_size, lr, digits):
    config = dataclasses.replace(QUICK, method="plain", batch_size=batch_size, lr=None)
    assert Training(config, digits).lr == pytest.approx(lr * config.resolved_lr)
    assert Training(dataclasses.replace(config, lr=0.3), digits).lr == 0.3
