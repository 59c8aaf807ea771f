"""The penalty: values and gradients of Algorithm 2, whatever the aggregate."""

import pytest
import torch
from hypothesis import given
from torch import nn

from cheaplip import Box
from penalties import (
    AGGREGATES,
    FORMS,
    fast,
    gradients,
    inputs,
    measured,
    penalty_of,
    quotients_of,
    scaled_identity,
    seeded,
    seeds,
    small_clip,
    tanh_net,
)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_value_at_the_new_pairs(aggregate):
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.7, aggregate=aggregate)
    penalty = clip(model)
    quotients = quotients_of(clip, model)
    temperature = 0.2 * quotients.amax()
    expected = {
        "max": quotients.amax(),
        "softmax": temperature * (quotients / temperature).exp().mean().log(),
        "mean": quotients.mean(),
    }[aggregate]
    torch.testing.assert_close(penalty, 0.7 * expected)


def test_gradient_of_max_is_that_of_the_largest_pair():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.7, aggregate="max")
    penalty = clip(model)
    quotients = quotients_of(clip, model)
    expected = gradients(0.7 * quotients[quotients.argmax()], model)
    for actual, wanted in zip(gradients(penalty, model), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_gradient_of_softmax_weighs_pairs_by_softmax():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.7, aggregate="softmax")
    penalty = clip(model)
    quotients = quotients_of(clip, model)
    weights = (quotients / (0.2 * quotients.amax())).softmax(dim=0).detach()
    expected = gradients(0.7 * (weights * quotients).sum(), model)
    for actual, wanted in zip(gradients(penalty, model), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-6)


@fast
@given(seeds)
def test_softmax_lies_between_mean_and_max(seed):
    model = tanh_net(3, 16, 2, seed=seed)
    low, middle, high = (measured(small_clip(aggregate=name), model).item() for name in ("mean", "softmax", "max"))
    assert low * (1 - 1e-5) <= middle <= high * (1 + 1e-5)


def test_softmax_is_the_default():
    assert small_clip().aggregate == "softmax"


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_penalty_scales_with_lam(aggregate):
    model = tanh_net(3, 16, 2)
    one, two = (small_clip(lam=lam, aggregate=aggregate)(model) for lam in (1.0, 2.5))
    torch.testing.assert_close(2.5 * one, two)


@pytest.mark.parametrize("form", FORMS)
def test_a_new_value_of_lam_takes_effect(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(lam=0.5), inputs(16, 3)
    clip.lam.fill_(0.0)
    assert penalty_of(clip, form, model, x).item() == 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_constant_model_has_zero_penalty_and_finite_gradients(aggregate, form):
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    clip = small_clip(aggregate=aggregate, domain=Box(0.0, 1.0))
    penalty = clip(model) if form == "own pass" else clip.joint(model, inputs(16, 3))[1]
    penalty.backward()
    assert penalty.item() == 0.0
    assert bool(torch.isfinite(model.weight.grad).all())
    assert bool(torch.isfinite(clip.pairs.u).all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_equal_ends_give_finite_gradients(aggregate, form):
    model, clip = tanh_net(3, 8, 2), small_clip(aggregate=aggregate, renew=0, step="quotient")
    clip.pairs.v.copy_(clip.pairs.u)
    penalty = clip(model) if form == "own pass" else clip.joint(model, inputs(16, 3))[1]
    penalty.backward()
    assert penalty.item() == 0.0
    assert all(bool((parameter.grad == 0).all()) for parameter in model.parameters() if parameter.grad is not None)
    assert bool(torch.isfinite(clip.pairs.u).all() and torch.isfinite(clip.pairs.v).all())


@pytest.mark.parametrize("form", FORMS)
def test_largest_is_the_quotient_and_not_its_square(form):
    clip = small_clip(norm_in=2, norm_out=2)
    penalty_of(clip, form, seeded(lambda: scaled_identity(3.0)), inputs(16, 3))
    assert clip.largest.item() == pytest.approx(3.0, rel=1e-4)


@pytest.mark.parametrize("lam", [0.0, 0.1, 10.0], ids=str)
def test_largest_does_not_depend_on_lam(lam):
    clip = small_clip(lam=lam)
    clip(scaled_identity(3.0))
    assert clip.largest.item() == pytest.approx(3.0, rel=1e-4)


def test_largest_is_the_largest_at_the_new_pairs():
    model, clip = tanh_net(3, 16, 2), small_clip()
    clip(model)
    torch.testing.assert_close(clip.largest, quotients_of(clip, model).amax().detach())


def test_training_with_the_penalty_lowers_the_constant():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=1.0)
    before = measured(clip, model).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        clip(model).backward()
        optimizer.step()
    assert measured(clip, model).item() < 0.5 * before
