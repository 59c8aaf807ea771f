"""How a margin is steered: slowly, fitted to the length of the run, and only to a target that was named."""

import dataclasses

import pytest

from cheaplip.data import load
from cheaplip.training import TrainConfig
from cheaplip.training.loop import Training

CONFIG = TrainConfig(data="digits", method="scale-free", model="mlp:16", activation="relu", probe=0, search=4)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def controller(digits, **options):
    return Training(dataclasses.replace(CONFIG, **options), digits).controller


@pytest.mark.parametrize("target", ["unset", None])
def test_without_a_named_target_the_margin_stays(digits, target):
    assert controller(digits, target=target) is None


@pytest.mark.parametrize("epochs", [3, 30])
def test_it_may_move_as_far_in_a_short_run_as_in_a_long_one(digits, epochs):
    training = Training(dataclasses.replace(CONFIG, target=0.9, epochs=epochs), digits)
    assert training.controller.rate * training.total_steps == pytest.approx(12.0)


def test_measured_by_epoch_it_moves_once_an_epoch_and_as_far(digits):
    steered = controller(digits, target=0.9, target_on="validation", epochs=24)
    assert steered.rate == pytest.approx(0.5)
    assert steered.smoothing == 0


def test_the_rate_may_be_named(digits):
    assert controller(digits, target=0.9, rate=0.01).rate == 0.01


def test_the_additive_rule_is_there_too(digits):
    assert controller(digits, target=0.9, rule="additive").rule == "additive"
