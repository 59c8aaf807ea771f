"""CLIP that waits for its first batch: options checked at once, states that come early, and what it refuses."""

import importlib
import inspect
import re
import warnings

import pytest
import torch
from torch import nn

from cheaplip import CLIP, DiscrepancyPrinciple, PairSet
from cheaplip.integrations.lazy import LazyCLIP

X = torch.rand(32, 3, generator=torch.Generator().manual_seed(0))


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def test_it_is_clip_and_its_controller():
    lazy, model = LazyCLIP(lam=0.2, target=0.9, size=4), net()
    clip = CLIP(PairSet(X, size=4), lam=0.2)
    controller = DiscrepancyPrinciple(clip, 0.9)
    for accuracy in (0.8, 0.95):
        assert lazy(model, X) == clip(model)
        lazy.observe(accuracy)
        controller.step(accuracy)
    assert lazy.clip.lam == clip.lam
    assert torch.equal(lazy.clip.pairs.u, clip.pairs.u)


def test_newcomers_come_from_the_batch_under_way():
    lazy = LazyCLIP(size=4)
    lazy(net(), X)
    lazy(net(), X + 100)
    assert lazy.clip.pairs.pool.min() >= 100


def test_the_added_gradient_is_the_penaltys():
    lazy, other, one, two = LazyCLIP(size=4), LazyCLIP(size=4), net(), net()
    for parameter in one.parameters():
        parameter.grad = torch.ones_like(parameter)
    lazy.add_gradient_(one, X, scale=3.0, reduce=lambda gradient: 2 * gradient)
    other(two, X).backward()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, 1 + 6 * (torch.zeros_like(b) if b.grad is None else b.grad))


def test_in_evaluation_mode_it_only_measures():
    lazy, model = LazyCLIP(size=4), net()
    lazy(model, X)
    before = lazy.clip.pairs.u.clone()
    lazy.eval()(model, X)
    assert torch.equal(lazy.clip.pairs.u, before)


@pytest.mark.parametrize("early", [True, False], ids=["before the first batch", "after"])
def test_a_state_may_come_before_the_first_batch(early):
    lazy, model = LazyCLIP(target=0.9, size=4, every=2), net()
    for _ in range(3):
        lazy(model, X)
        lazy.observe(0.95)
    other = LazyCLIP(target=0.9, size=4, every=2)
    if not early:
        other(model, X)
    other.load_state_dict(lazy.state_dict())
    assert other.built != early
    assert lazy(model, X) == other(model, X)
    assert torch.equal(lazy.clip.pairs.u, other.clip.pairs.u)
    for each in (lazy, other):
        each.observe(0.5)
    assert lazy.clip.lam == other.clip.lam


def test_an_early_state_survives_being_saved_again():
    lazy, other = LazyCLIP(size=4), LazyCLIP(size=4)
    lazy(net(), X)
    other.load_state_dict(lazy.state_dict())
    assert other.get_extra_state().keys() == lazy.get_extra_state().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": 0.0, "target": 0.9}, "lam = 0 never moves under the multiplicative rule: start from lam > 0"),
        ({"lam": -1.0}, "lam: expected a finite number of at least 0, got -1.0"),
        ({"target": 97}, "target: expected an accuracy in (0, 1), got 97: 97 % is 0.97; for a loss say mode='min'"),
        ({"size": 0}, "size: expected at least one pair, got 0"),
        ({"every": 0}, "every: expected 1 or more, got 0"),
    ],
    ids=["immovable", "negative", "per cent", "no pairs", "never"],
)
def test_options_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        LazyCLIP(**options)


@pytest.mark.parametrize("ask", [lambda lazy: lazy.clip, lambda lazy: lazy.controller, lambda lazy: lazy.observe(0.9)])
def test_before_the_first_batch_there_are_no_pairs(ask):
    with pytest.raises(RuntimeError, match=r"^no pairs yet: they are made from the first training batch; train for a"):
        ask(LazyCLIP(target=0.9))


def test_without_gradients_it_refuses():
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"^the penalty is taken under torch\.no_grad\(\) and does"):
        LazyCLIP()(net(), X)


def test_a_frozen_model_is_refused():
    with pytest.raises(RuntimeError, match=r"^no parameter of the model requires a gradient, so the penalty does noth"):
        LazyCLIP()(net().requires_grad_(False), X)


def test_another_shape_is_refused():
    lazy = LazyCLIP()
    lazy(net(), X)
    with pytest.raises(
        ValueError, match=r"^expected inputs of shape \(3,\), as in the first batch, got \(4,\): pad or"
    ):
        lazy(net(), torch.rand(8, 4))


def test_a_state_of_other_options_is_refused():
    lazy = LazyCLIP(target=0.9, size=4)
    lazy(net(), X)
    for other, message in (
        (LazyCLIP(size=4), "the saved state has a target for λ, now there is none: resume with equal options"),
        (LazyCLIP(target=0.9, size=5), "the saved pairs do not fit, resume with equal options and inputs: "),
    ):
        other.load_state_dict(lazy.state_dict())
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            other(net(), X)


@pytest.mark.parametrize(
    ("adapter", "package", "lacks"),
    [
        ("lightning.CLIPCallback", "lightning", set()),
        ("skorch.CLIPClassifier", "skorch", {"mode"}),  # an accuracy
        ("skorch.CLIPRegressor", "skorch", {"mode"}),  # a loss
    ],
)
def test_an_adapter_has_every_option_with_its_default(adapter, package, lacks):
    pytest.importorskip(package, reason="needs the adapter's package")
    module, name = adapter.split(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks' own
        found = inspect.signature(getattr(importlib.import_module(f"cheaplip.integrations.{module}"), name)).parameters
    options = {option: p.default for option, p in inspect.signature(LazyCLIP).parameters.items()}
    assert {option: found[option].default for option in options.keys() & found.keys()} == {
        option: default for option, default in options.items() if option not in lacks
    }
