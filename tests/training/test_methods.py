import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import CLIP, Box, PairSet
from cheaplip.training import methods


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)
    return nn.Linear(6, 3), x, y


def test_plain_is_the_cross_entropy(problem):
    model, x, y = problem
    loss, fit, output = methods.plain().step(model, x, y)
    assert loss.item() == fit.item() == cross_entropy(model(x), y).item()
    assert torch.equal(output, model(x))


def test_weight_penalty_counts_matrices_only(problem):
    model, x, y = problem
    loss, fit, _ = methods.penalised(methods.WeightPenalty(0.5)).step(model, x, y)
    assert (loss - fit).item() == pytest.approx(0.5 * model.weight.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf])
def test_weight_penalty_refuses_a_bad_weight(lam):
    with pytest.raises(ValueError, match="lam: expected a finite number of at least 0"):
        methods.WeightPenalty(lam)


@pytest.mark.parametrize("form", [methods.joint, methods.penalised], ids=["joint", "separate"])
def test_clip_adds_lambda_times_the_quotient(problem, form):
    model, x, y = problem
    clip = CLIP(PairSet(x, size=4), lam=0.3, aggregate="max")
    loss, fit, _ = form(clip).step(model, x, y)
    assert (loss - fit).item() == pytest.approx(0.3 * clip.largest.item(), rel=1e-5)


def test_adversarial_inputs_stay_in_ball_and_box_and_hurt(problem):
    model, x, y = problem
    seen = []

    class Recorder(nn.Module):
        def forward(self, z):
            seen.append(z.detach())
            return model(z)

    generator = torch.Generator().manual_seed(0)
    state = torch.random.get_rng_state()
    _, fit, _ = methods.adversarial(0.4, 7, Box(0.0, 1.0), generator).step(Recorder(), x, y)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(seen) == 8
    perturbed = seen[-1]
    assert (perturbed - x).norm(dim=1).max() <= 0.4 * (1 + 1e-5)
    assert (perturbed - x).norm(dim=1).min() > 0.1
    assert Box(0.0, 1.0).contains(perturbed)
    assert fit > cross_entropy(model(x), y)
    assert all(p.grad is None for p in model.parameters())
