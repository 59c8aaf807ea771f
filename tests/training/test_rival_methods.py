"""What holds for each of the methods of others: its quantity falls, it resumes bit for bit, it is steered."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from cheaplip.cli import run
from cheaplip.errors import ConfigError, Interrupted
from cheaplip.runs.folder import RunFolder
from cheaplip.training import TrainConfig, train
from cheaplip.training.loop import Training
from cheaplip.training.methods import GROUPS, METHODS, method_named
from penalties import seeded
from several_processes import on_ranks
from training_runs import method_on, stop_after, term_of, timeless, toy_data

PENALTIES = ("jacobian", "gradient-penalty", "operator-norm", "norm-decay", "alr", "laplacian")
RIVALS = (*PENALTIES, "spectral", "deep-spline")
QUICK = TrainConfig(
    data="toy", model="mlp:8", activation="tanh", epochs=3, batch_size=6, lr=0.1, target=0.9, probe=0, search=4
)


@pytest.mark.parametrize("name", PENALTIES)
def test_what_is_penalised_falls_with_a_large_weight(name):
    data = toy_data()
    network = seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)))
    before = term_of(method_on(name, network, data), network, data)
    method = method_on(name, network, data, lam=10.0)
    method.before_step(0, torch.arange(len(data.train.x)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005)
    for _ in range(20):
        optimizer.zero_grad()
        method.losses(network, *data.train).total.backward()
        optimizer.step()
    assert term_of(method_on(name, network, data), network, data) < 0.8 * before


@pytest.mark.parametrize("name", RIVALS)
def test_an_interrupted_run_continues_bit_for_bit(name, tmp_path):
    data, config = toy_data(), dataclasses.replace(QUICK, method=name)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train(config, data, whole)
    with pytest.raises(Interrupted):
        train(config, data, cut, stop=stop_after(14))  # in the second epoch
    train(config, data, cut, resume=True)
    assert cut.read_bytes("model.safetensors") == whole.read_bytes("model.safetensors")
    assert timeless(cut.history()) == timeless(whole.history())


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize(("accuracy", "direction"), [(1.0, 1), (0.5, -1)], ids=["above", "below"])
def test_lambda_follows_the_accuracy(name, accuracy, direction):
    training = Training(dataclasses.replace(QUICK, method=name), toy_data())
    for _ in range(20):
        training.controller.step(torch.tensor(accuracy))
    assert direction * (float(training.method.penalty.lam) - training.method.first_lam) > 0


@pytest.mark.parametrize("name", RIVALS)
def test_the_global_random_state_is_left_alone(name):
    data = toy_data()
    network = seeded(lambda: nn.Linear(6, 3))
    state = torch.random.get_rng_state()
    method = method_on(name, network, data)
    method.before_step(0, torch.arange(len(data.train.x)))
    method.losses(network, *data.train)
    method.after_step()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", RIVALS)
def test_images_and_convolutions_train(name):
    data = toy_data((1, 8, 8), rows=24)
    training = Training(dataclasses.replace(QUICK, method=name, model="cnn", epochs=1), data)
    training.run_epoch(lambda: training.step >= 2)
    training.check_weights()
    assert training.step == 2


@pytest.mark.parametrize("name", RIVALS)
def test_regression_trains(name):
    data = toy_data()
    x, y = data.train.x, data.train.x[:, :1].square()
    part = type(data.train)(x, y)
    data = dataclasses.replace(data, train=part, validation=part, test=part, classes=0)
    config = dataclasses.replace(QUICK, method=name, task="regression", target=0.1, activation="relu", epochs=1)
    training = Training(config, data)
    training.run_epoch(lambda: False)
    assert training.end_epoch()["lam"] > 0


@pytest.mark.parametrize("name", RIVALS)
def test_zero_can_be_no_first_weight_of_a_steered_run(name):
    with pytest.raises(ConfigError, match="lam: 0 can never move towards the target"):
        dataclasses.replace(QUICK, method=name, lam=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projections": 0}, "projections: expected a whole number of 1 or more, got 0"),
        ({"power_steps": 0}, "power_steps: expected a whole number of 1 or more, got 0"),
        ({"neighbours": 0}, "neighbours: expected a whole number of 1 or more, got 0"),
        ({"gradients": "median"}, "gradients: expected one of mean, max, got 'median'"),
        ({"method": "jacobian", "target_lipschitz": 1.0, "target": None}, "expected --method clip"),
    ],
    ids=["projections", "power-steps", "neighbours", "gradients", "target-lipschitz"],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(QUICK, **options)


def test_the_help_lists_each_method_under_its_group(capsys):
    assert run(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    places = {text.index(f" {name}: {method.adds};"): method.group for name, method in METHODS.items()}
    starts = {text.index(f"{group}:"): group for group in GROUPS}
    assert list(starts) == sorted(starts)
    for place, group in places.items():
        assert starts[max(start for start in starts if start < place)] == group


def test_a_comparison_takes_rivals(tmp_path, capsys):
    options = ["--model", "mlp:8", "--epochs", "1", "--probe", "0", "--search", "4", "--target", "0.5"]
    names = "jacobian,spectral"
    command = ["compare", "digits", "--methods", names, *options, "--attacks", "noise", "--samples", "5"]
    assert run([*command, "--out", str(tmp_path / "both"), "--json"]) == 0
    output = capsys.readouterr().out
    assert all(f'"method": "{name}"' in output for name in names.split(","))


@pytest.mark.parametrize("name", RIVALS)
def test_a_method_names_its_source_and_group(name):
    method = method_named(name)
    assert re.search(r"\d{4}", method.source)
    assert method.group in GROUPS
    assert "Reference:" in (method.__doc__ or "")


IN_PROCESSES = [name for name in RIVALS if method_named(name).distributed]


def weights_after_an_epoch() -> dict[str, torch.Tensor]:
    """The weights of networks that several processes, or this one alone, trained for an epoch."""
    found = {}
    for name in IN_PROCESSES:
        training = Training(dataclasses.replace(QUICK, method=name, lam=0.5, target=None), toy_data())
        training.run_epoch(lambda: False)
        found |= {f"{name} {part}": value for part, value in training.inner.state_dict().items()}
    return found


def test_two_processes_train_as_one_does(tmp_path):
    assert IN_PROCESSES == ["norm-decay", "spectral", "deep-spline"]
    alone = weights_after_an_epoch()
    for found in on_ranks(2, weights_after_an_epoch, tmp_path):
        assert found.keys() == alone.keys()
        for part, value in found.items():
            torch.testing.assert_close(value, alone[part], rtol=1e-4, atol=1e-5, msg=part)
