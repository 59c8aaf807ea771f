"""Estimates from slopes at random inputs: exact where all slopes are alike, near the end point of known laws."""

import math

import pytest
import torch
from torch import nn

from cheaplip import Box, bracket
from cheaplip.lipschitz import Estimate, clever_score
from cheaplip.lipschitz.bounds.best import BOUNDS
from cheaplip.lipschitz.bracket import ESTIMATES
from cheaplip.lipschitz.search.extremes import estimated_end
from networks import mlp


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def test_equal_maxima_are_their_own_end():
    assert estimated_end(torch.full((20,), 3.0)) == 3.0


@pytest.mark.parametrize("shape", [1.5, 3.0, 6.0])
def test_the_end_of_a_reverse_weibull_law_is_found(shape):
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2000, generator=generator, dtype=torch.float64)
    sample = 7.0 - 2.0 * (-uniform.log()) ** (1 / shape)
    assert estimated_end(sample) == pytest.approx(7.0, abs=0.3)


def test_the_end_moves_and_grows_with_the_values():
    sample = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 0.5
    assert estimated_end(1000 * sample + 5) == pytest.approx(1000 * estimated_end(sample) + 5)


@pytest.mark.parametrize(("norm", "expected"), [(2, 5.0), (1, 4.0), (math.inf, 7.0)])
def test_the_estimate_of_a_linear_map_is_its_norm(norm, expected):
    b = bracket(linear([3.0, 4.0]), shape=(2,), norm=norm, method="clever", steps=2)
    assert b.estimate == Estimate("clever", pytest.approx(expected), pytest.approx(expected))


def test_an_estimate_is_no_bound():
    b = bracket(linear([3.0, 4.0]), shape=(2,), method="clever", steps=2)
    assert (b.upper, b.method) == (math.inf, "none")
    assert b.reason == "clever estimates the constant, and proves no bound: leave the method out for one"
    assert not set(ESTIMATES) & set(BOUNDS)


def test_a_bound_comes_without_an_estimate():
    assert bracket(linear([3.0, 4.0]), shape=(2,), method="norms", steps=2).estimate is None


def test_an_estimate_is_at_least_the_largest_slope_that_was_met():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp(3, 20, 20, 2)
    found = bracket(model, Box(-1.0, 1.0), (3,), method="clever", steps=2)
    assert 0 < found.estimate.largest <= found.estimate.value
    assert found.estimate.value == pytest.approx(bracket(model, Box(-1.0, 1.0), (3,)).lower, rel=0.2)


def test_a_model_without_gradients_has_no_estimate():
    assert bracket(lambda x: x.detach(), shape=(2,), method="clever", steps=2).estimate is None


@pytest.mark.parametrize(("norm", "expected"), [(2, math.sqrt(2)), (math.inf, 1.0)])
def test_the_score_of_a_linear_classifier_is_the_distance(norm, expected):
    score = clever_score(nn.Identity(), torch.tensor([[3.0, 1.0]]), radius=9.0, norm=norm, batches=3, samples=8)
    assert score.tolist() == pytest.approx([expected])


def test_the_score_is_the_radius_at_most():
    score = clever_score(nn.Identity(), torch.tensor([[3.0, 1.0, 0.0]]), radius=0.5, batches=3, samples=8)
    assert score.tolist() == [0.5]


@pytest.mark.parametrize("options", [{"radius": 0.0}, {"radius": 1.0, "norm": 1}], ids=str)
def test_the_score_refuses_other_options(options):
    with pytest.raises(ValueError, match="expected norm 2 or inf and a finite radius above 0"):
        clever_score(nn.Identity(), torch.zeros(1, 2), **options)
