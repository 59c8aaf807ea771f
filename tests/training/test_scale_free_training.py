"""``--method scale-free``: it trains, resumes bit for bit, and refuses what it cannot do."""

import dataclasses
import re

import pytest
import torch

from cheaplip.data import load
from cheaplip.errors import ConfigError, Interrupted
from cheaplip.runs.folder import RunFolder
from cheaplip.training import TrainConfig, train
from cheaplip.training.loop import Training

QUICK = TrainConfig(
    data="digits", method="scale-free", epochs=3, model="mlp:32", activation="relu", lr=0.1, pairs=8, probe=2, search=4
)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_it_learns_and_keeps_the_constant_near_one(digits, tmp_path):
    metrics = train(dataclasses.replace(QUICK, epochs=10), digits, RunFolder(tmp_path / "run"))
    assert metrics["accuracy"]["validation"] > 0.8
    assert 0.3 < metrics["lipschitz"]["lower"] < 5
    assert "lam" not in metrics
    assert metrics["tracking"] > 0.3


def test_a_resumed_run_is_the_same_bit_for_bit(digits, tmp_path):
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train(QUICK, digits, whole)
    left = iter([False] * 90)
    with pytest.raises(Interrupted):
        train(QUICK, digits, cut, stop=lambda: next(left, True))
    train(QUICK, digits, cut, resume=True)
    assert (whole.path / "model.safetensors").read_bytes() == (cut.path / "model.safetensors").read_bytes()


def test_perturbations_have_the_data_s_size_unless_said_otherwise(digits):
    partners = Training(QUICK, digits).method.partners
    assert partners.radius == pytest.approx(0.625 * digits.epsilon)
    assert Training(dataclasses.replace(QUICK, partners=0.1), digits).method.partners.radius == 0.1
    assert Training(dataclasses.replace(QUICK, partners=0.0), digits).method.partners is None


def test_perturbations_move_while_it_trains(digits):
    training = Training(QUICK, digits)
    training.run_epoch(lambda: False)
    moved = training.method.partners.shift.flatten(1).norm(dim=1)
    assert (moved > 0).float().mean() > 0.8
    assert moved.max() <= training.method.partners.reach * (1 + 1e-5)


def test_a_target_steers_the_margin_and_the_radius_with_it(digits, tmp_path):
    config = dataclasses.replace(QUICK, epochs=20, target=0.9, margin=0.1, partners=0.05)
    metrics = train(config, digits, RunFolder(tmp_path / "run"))
    assert metrics["lam"] > 0.15  # a margin of 0.1 leaves more than 90 %
    assert 0.85 < metrics["accuracy"]["train"] < 0.97


def test_the_radius_follows_the_margin(digits):
    training = Training(dataclasses.replace(QUICK, target=0.9, margin=0.2, partners=0.1), digits)
    training.method.hinge.lam.fill_(0.4)
    training.run_epoch(lambda: True)
    assert float(training.method.partners.radius) == pytest.approx(0.2)


def test_a_steered_run_resumes_bit_for_bit(digits, tmp_path):
    config = dataclasses.replace(QUICK, target=0.9)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    metrics = train(config, digits, whole)
    left = iter([False] * 90)
    with pytest.raises(Interrupted):
        train(config, digits, cut, stop=lambda: next(left, True))
    assert train(config, digits, cut, resume=True)["lam"] == metrics["lam"] != config.margin
    assert (whole.path / "model.safetensors").read_bytes() == (cut.path / "model.safetensors").read_bytes()


def test_what_is_steered_is_scored_at_inputs_as_they_are(digits):
    training = Training(dataclasses.replace(QUICK, target=0.9), digits)
    x, y = digits.train.x[:32], digits.train.y[:32]
    training.method.before_step(0, torch.arange(32))
    output = training.method.losses(training.network, x, y).output
    torch.testing.assert_close(output, training.network(x[:8]))


def test_a_part_of_each_batch_gets_noise_instead(digits):
    method = Training(QUICK, digits).method
    x, y = digits.train.x[:31], digits.train.y[:31]
    seen = []

    def network(z):
        seen.append(z.detach())
        return z.flatten(1)[:, :10] * 1.0

    method.before_step(0, torch.arange(31))
    method.joint = False
    method.losses(network, x, y)
    changed = (seen[0] - x).flatten(1).norm(dim=1)
    assert changed[0] > 0
    assert not changed[1:].any()  # perturbations are still 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partners": -1.0}, "partners: expected a finite number of at least 0, got -1.0"),
        ({"task": "regression", "target": 1.0}, "method: scale-free does not apply to regression"),
        ({"held_out": 100}, "held_out: expected 0, or with --method clip"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(data="digits", method="scale-free", **options)
