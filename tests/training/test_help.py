"""The help of ``cheaplip train`` says what the classes say: the methods, and every default that depends on others."""

import re

import pytest
import torch
from torch import nn

from cheaplip import Box
from cheaplip.cli import run
from cheaplip.data import Data, Split
from cheaplip.training import TrainConfig
from cheaplip.training.methods import METHODS, Method, Setting
from cheaplip.training.methods.certified import Certified
from cheaplip.training.methods.clip import every_for
from cheaplip.training.tasks import TASKS, Classification, Regression, task_of


@pytest.fixture
def help_of(capsys):
    """Returns the help of an option, in one line, without its name and choices."""
    assert run(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())

    def find(option):
        found = re.search(rf" --{option} (?:\S+ )(.*?\(default: [^)]*\))", text)
        assert found, f"no --{option} in the help"
        return found[1]

    return find


def defaults(**options):
    return TrainConfig(data="digits", **options)


def test_the_help_lists_every_method_with_what_it_adds(help_of):
    text = help_of("method")
    assert [text.count(f" {name}: {method.adds};") for name, method in METHODS.items()] == [1] * len(METHODS)
    assert "package.module:Class" in text


@pytest.mark.parametrize(
    ("option", "attribute", "usual"),
    [
        ("epochs", "epochs", Classification.epochs),
        ("batch-size", "batch_size", Method.batch_size),
        ("lr", "lr", None),
    ],
)
def test_the_help_states_the_defaults_of_methods(option, attribute, usual, help_of):
    own = {name: getattr(method, attribute) for name, method in METHODS.items()}
    stated = {name: value for name, value in own.items() if value not in (None, usual)}
    text = help_of(option)
    assert stated
    assert [name for name in METHODS if re.search(rf"[\d.]+ for {re.escape(name)}\b", text)] == list(stated)
    assert all(f"{value} for {name}" in text for name, value in stated.items())
    assert usual is None or f"else {usual}" in text


def test_the_help_states_the_defaults_of_tasks(help_of):
    assert list(TASKS) == ["classification", "regression"]
    assert f"{Regression.epochs} for regression, else {Classification.epochs}" in help_of("epochs")


def test_the_help_states_what_is_given_up_and_where_it_is_measured(help_of):
    assert (defaults().give_up, defaults().target) == (0.005, "unset")
    assert "(default: 0.5%)" in help_of("give-up")
    assert (defaults().resolved_target_on, defaults(target=0.9).resolved_target_on) == ("validation", "train")
    assert "unset: train with --target, validation with --give-up" in help_of("target-on")


def test_the_help_states_the_default_learning_rates(help_of):
    perceptron, other = defaults(), defaults(activation="relu")
    assert perceptron.resolved_activation == "sigmoid"
    assert defaults(model="cnn", activation="sigmoid").resolved_lr == other.resolved_lr
    assert f"else {perceptron.resolved_lr} for mlp with sigmoid, else {other.resolved_lr}" in help_of("lr")


def test_the_help_states_the_default_activations(help_of):
    with_relu = [name for name, method in METHODS.items() if method.activation == "relu"]
    assert Regression.activation == "relu"
    others = {name: method.activation for name, method in METHODS.items() if method.activation not in (None, "relu")}
    assert (defaults().resolved_activation, defaults(model="cnn").resolved_activation) == ("sigmoid", "relu")
    sorting = "".join(f"{activation} for {name}, " for name, activation in others.items())
    text = f"unset: sigmoid for mlp, {sorting}relu for other models, {', '.join(with_relu)} and regression"
    assert text in help_of("activation")


def test_the_help_states_which_methods_have_no_momentum(help_of):
    others = [name for name, method in METHODS.items() if method.optimizer is not Method.optimizer]
    for option in ("momentum", "weight-decay"):
        assert f"{' and '.join(others)} has none" in help_of(option)


def test_the_help_states_clip_s_first_lambda(help_of):
    first = {model: defaults(model=model).first_lam for model in ("mlp:8", "linear", "cnn", "package.module:net")}
    assert first["mlp:8"] == first["linear"]
    assert first["cnn"] == first["package.module:net"]
    assert defaults(task="regression", target=1.0, model="cnn").first_lam == Regression.first_lam
    text = (
        f"unset: {Regression.first_lam} for regression, else {first['mlp:8']} for mlp and linear, else {first['cnn']}"
    )
    assert text in help_of("lam")


def test_the_help_states_how_rarely_long_runs_are_regularised(help_of):
    assert (every_for(1999), every_for(2000) > 1) == (1, True)
    assert f"unset: 1 below 2,000 steps, else up to {every_for(10**9)}" in help_of("every")


def test_the_help_states_the_margin(help_of):
    x, y = torch.rand(8, 6), torch.arange(8) % 3
    part = Split(x, y)
    data = Data("toy", part, part, part, 3, Box(0.0, 1.0), epsilon=1.0, noise=0.5)
    setting = Setting(defaults(), nn.Linear(6, 3), data, x[:0], task_of(data), 100, torch.Generator())
    assert f"unset: {Certified(setting).margin} × the data's epsilon" in help_of("margin")


def test_only_methods_that_exist_are_compared_by_default(capsys):
    assert run(["compare", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    names = re.search(r"--methods STR .*?\(default: (.*?)\)", text)[1].split(",")
    assert set(names) <= set(METHODS)
