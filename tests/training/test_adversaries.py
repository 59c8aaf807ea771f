"""Training on perturbed inputs: where the perturbations go, what is minimised, on problems with a known answer."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import Box
from cheaplip.data import load
from cheaplip.errors import ConfigError, Interrupted
from cheaplip.runs.folder import RunFolder
from cheaplip.training import TrainConfig
from cheaplip.training.methods.adversaries.fgsm import Fgsm
from cheaplip.training.methods.adversaries.free import Free
from cheaplip.training.methods.adversaries.one_step import OneStep
from cheaplip.training.methods.adversaries.trades import Trades, divergence
from cheaplip.training.pgd import climbed
from cheaplip.training.run import train
from training_problems import descend, setting
from training_runs import QUICK, stop_after, timeless

X, Y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
DIRECTION = torch.tensor([3.0, 4.0]) / 5  # along which the difference of the two logits grows


@pytest.fixture
def linear():
    """Logits whose difference is (3, 4) · x − 3.5: both points are right, and the gradient is known."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.5, -2.0], [1.5, 2.0]]))
        model.bias.copy_(torch.tensor([1.75, -1.75]))
    return model


class Recorder(nn.Module):
    """A model that keeps what it was given."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)


def trained_on(method, model, x=X, y=Y):
    """The inputs that the loss of a step is computed at."""
    recorder = Recorder(model)
    method.losses(recorder, x, y)
    return recorder.seen[-1]


def test_fgsm_from_the_input_steps_epsilon_along_the_gradient(linear):
    method = Fgsm(setting(linear, X, Y, adversarial_epsilon=0.3, fgsm_step=1.0, fgsm_start=0.0))
    torch.testing.assert_close(trained_on(method, linear), X + 0.3 * torch.stack([DIRECTION, -DIRECTION]))


def test_fgsm_from_a_random_start_ends_in_the_ball_and_uphill(linear):
    method = Fgsm(setting(linear, X, Y, adversarial_epsilon=0.3))
    moved = trained_on(method, linear) - X
    assert moved.norm(dim=1).max() <= 0.3 * (1 + 1e-5)
    assert ((moved @ DIRECTION) * torch.tensor([1.0, -1.0])).min() > 0.2
    assert not torch.allclose(moved[0], 0.3 * DIRECTION, atol=1e-3)


def test_one_step_is_noise_and_a_step_of_length_epsilon_that_is_not_projected(linear):
    x, y = torch.zeros(200, 2), torch.zeros(200, dtype=torch.long)
    method = OneStep(setting(linear, X, Y, adversarial_epsilon=0.3, one_step_noise=0.5))
    noise = trained_on(method, linear, x, y) - 0.3 * DIRECTION
    lengths = noise.norm(dim=1)
    assert lengths.max() <= 0.15 * (1 + 1e-5)
    assert lengths.max() > 0.14
    assert lengths.min() < 0.01


@pytest.mark.parametrize("kind", [Fgsm, OneStep, Free, Trades])
def test_perturbed_inputs_stay_in_the_box(kind, linear):
    method = kind(setting(linear, X, Y, adversarial_epsilon=5.0, domain=Box(0.0, 1.0)))
    recorder = Recorder(linear)
    for _ in range(2):
        method.losses(recorder, X, Y).total.backward()
    assert all(Box(0.0, 1.0).contains(seen) for seen in recorder.seen)


@pytest.mark.parametrize("kind", [Fgsm, OneStep, Free, Trades])
def test_the_radius_is_that_of_the_data_unless_it_is_given(kind, linear):
    assert kind(setting(linear, X, Y)).epsilon == 0.4
    assert kind(setting(linear, X, Y, adversarial_epsilon=0.1)).epsilon == 0.1


def test_free_climbs_along_the_gradient_of_the_step_before(linear):
    method = Free(setting(linear, X, Y, adversarial_epsilon=0.3))
    assert torch.equal(trained_on(method, linear), X)
    method.losses(linear, X, Y).total.backward()
    torch.testing.assert_close(trained_on(method, linear), X + 0.3 * torch.stack([DIRECTION, -DIRECTION]))


def test_free_replays_each_batch_and_carries_the_perturbation_on(linear):
    method = Free(setting(linear, X, Y, adversarial_epsilon=0.3, replays=3))
    assert method.replays == 3
    method.losses(linear, X, Y).total.backward()
    carried = trained_on(method, linear, X + 1)
    torch.testing.assert_close(carried, X + 1 + 0.3 * torch.stack([DIRECTION, -DIRECTION]))


def test_a_replayed_batch_is_the_same_one_in_a_run(tmp_path, monkeypatch):
    seen = []

    class Watched(Free):
        def before_step(self, step, rows):
            seen.append(tuple(rows.tolist()))

    monkeypatch.setattr("cheaplip.training.config.method_named", lambda *_: Watched)
    config = dataclasses.replace(QUICK, method="free", epochs=1, replays=3, probe=0, search=4)
    train(config, load("digits"), RunFolder(tmp_path / "run"))
    groups = [seen[at : at + 3] for at in range(0, len(seen), 3)]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == len(groups)


def test_a_step_of_the_ascent_is_normalised_and_projected():
    shift, gradient = torch.tensor([[0.0, 0.0], [0.3, 0.0]]), torch.tensor([[0.0, 7.0], [2.0, 0.0]])
    torch.testing.assert_close(climbed(shift, gradient, 0.2, 0.4), torch.tensor([[0.0, 0.2], [0.4, 0.0]]))


def test_the_divergence_is_the_kullback_leibler_one():
    before, moved = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(moved, before).item() == pytest.approx(expected)


def test_trades_adds_nothing_for_a_constant_model(linear):
    with torch.no_grad():
        linear.weight.zero_()
    total, fit, output = Trades(setting(linear, X, Y)).losses(linear, X, Y)
    assert total.item() == pytest.approx(fit.item()) == pytest.approx(cross_entropy(linear(X), Y).item())
    torch.testing.assert_close(output, linear(X))


def test_trades_adds_beta_times_the_divergence_at_the_worst_point(linear):
    method = Trades(setting(linear, X[:1], Y[:1], adversarial_epsilon=0.3, beta=2.0))
    total, fit, output = method.losses(linear, X[:1], Y[:1])
    ends = [divergence(linear(X[:1] + sign * 0.3 * DIRECTION), output).item() for sign in (-1, 1)]
    assert 0.98 * 2.0 * max(ends) < (total - fit).item() <= 2.0 * max(ends) * (1 + 1e-5)


def test_trades_leaves_batch_norm_statistics_to_the_batch():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    Trades(setting(model, X, Y)).losses(model, X, Y)
    assert model[0].num_batches_tracked == 1
    assert model.training


@pytest.mark.parametrize("kind", [Fgsm, OneStep, Free, Trades])
def test_its_own_quantity_falls(kind):
    torch.manual_seed(0)
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    x = x + 2.0 * y.unsqueeze(1)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    losses = descend(kind(setting(model, x, y, adversarial_epsilon=0.3)), model, x, y, steps=40, lr=0.1)
    assert losses[-1] < 0.7 * max(losses[:3])


@pytest.mark.parametrize("method", ["fgsm", "free", "one-step", "trades"])
def test_an_interrupted_run_continues_bit_for_bit(method, tmp_path):
    digits = load("digits")
    config = dataclasses.replace(QUICK, method=method, adversarial_steps=1, epochs=2, probe=0, search=4)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train(config, digits, whole)
    with pytest.raises(Interrupted):
        train(config, digits, cut, stop=stop_after(49))  # in the second epoch, and within a replayed batch
    train(config, digits, cut, resume=True)
    assert cut.read_bytes("model.safetensors") == whole.read_bytes("model.safetensors")
    assert timeless(cut.history()) == timeless(whole.history())
    assert all(("lam" in line) == (method == "trades") for line in whole.history())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fgsm_step": 0.0}, "fgsm_step: expected a positive number, got 0.0"),
        ({"fgsm_start": -1.0}, "fgsm_start: expected a finite number of at least 0, got -1.0"),
        ({"one_step_noise": math.inf}, "one_step_noise: expected a positive number, got inf"),
        ({"replays": 0}, "replays: expected a whole number of 1 or more, got 0"),
        ({"beta": -1.0}, "beta: expected a finite number of at least 0, got -1.0"),
        ({"adversarial_epsilon": 0.0}, "adversarial_epsilon: expected a positive number, got 0.0"),
        ({"method": "trades", "task": "regression"}, "method: trades does not apply to regression: expected one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_on_one_line(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        TrainConfig(data="digits", **{"method": "fgsm", **options})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("method", ["fgsm", "free", "one-step"])
def test_numbers_can_be_learnt_on_perturbed_inputs(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(120, 3, generator=generator)
    rows = ["a,b,c,price", *(",".join(f"{v:.4f}" for v in (*row, row.sum())) for row in x)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    data = load("table.csv", label="price", task="regression")
    config = TrainConfig(data="table.csv", label="price", task="regression", method=method, model="mlp:8", epochs=3,
                         probe=0, search=4)  # fmt: skip
    metrics = train(config, data, RunFolder(tmp_path / "run"))
    assert metrics["rmse"]["train"] < 0.6
