"""The bounds that others have published: known answers, and the formulas of their papers."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from cheaplip import Box, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.lipsdp import certify, optimise, product
from cheaplip.lipschitz.bounds.published.combettes_pesquet import combettes_pesquet
from cheaplip.lipschitz.bounds.published.seqlip import MOST_NEURONS, seqlip
from cheaplip.lipschitz.bounds.published.zou import bessel_norm
from cheaplip.lipschitz.reading.operations import Convolution

RELU = (torch.tensor(0.0), torch.tensor(1.0))


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random_weights(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = pairwise(sizes)
    return [torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in pairs]


def norm(weight):
    return float(torch.linalg.matrix_norm(weight, 2))


ABSOLUTE_VALUE = [matrix([1.0], [-1.0]), matrix([1.0, 1.0])]
DIAGONAL = [torch.diag(matrix(*values)) for values in ((3.0, 1.0), (1.0, 4.0), (2.0, 1.0))]


@pytest.mark.parametrize("method", [seqlip, combettes_pesquet], ids=["seqlip", "combettes-pesquet"])
class TestKnownAnswers:
    def test_absolute_value_of_two_neurons(self, method):
        assert product(ABSOLUTE_VALUE, [RELU]) == pytest.approx(2)
        assert 1 <= method(ABSOLUTE_VALUE, [RELU]).value == pytest.approx(1)

    def test_a_single_matrix_has_its_norm(self, method):
        assert 5 <= method([matrix([3.0, 4.0])], []).value == pytest.approx(5)

    def test_no_bound_is_above_the_product_of_norms(self, method):
        weights = random_weights(4, 6, 5, 7, 3)
        assert method(weights, [RELU] * 3).value < product(weights, [RELU] * 3)

    def test_weights_whose_products_overflow(self, method):
        weights = [1e200 * weight for weight in random_weights(3, 4, 2)]
        found = method(weights, [RELU])
        assert found.value == math.inf
        assert found.reason == "the bound is above the largest float64"

    def test_weights_far_from_one(self, method):
        weights = random_weights(3, 4, 5, 2)
        scaled = [1e200 * weights[0], 1e-150 * weights[1], 1e-40 * weights[2]]
        expected = 1e10 * method(weights, [RELU] * 2).value
        assert method(scaled, [RELU] * 2).value == pytest.approx(expected)

    def test_slopes_below_zero(self, method):
        both = (torch.tensor(-1.0), torch.tensor(1.0))
        assert 2 <= method(ABSOLUTE_VALUE, [both]).value == pytest.approx(2)


def test_seqlip_takes_square_roots_of_the_inner_singular_values():
    # the pairs are √(1, 4) · (3, 1) and (2, 1) · √(1, 4)
    assert seqlip(DIAGONAL, [RELU] * 2).value == pytest.approx(3 * 2)


def test_seqlip_is_the_largest_of_all_choices():
    first, second = weights = random_weights(5, 9, 4)
    choices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 9)
    largest = float(torch.linalg.matrix_norm((second * choices.unsqueeze(1)) @ first, 2).max())
    assert largest <= seqlip(weights, [RELU]).value == pytest.approx(largest)


def test_seqlip_of_many_neurons_is_the_semidefinite_bound_of_its_pairs():
    weights = random_weights(5, MOST_NEURONS + 1, 4)
    proved = certify(weights, [RELU], optimise(weights, [RELU]))
    assert seqlip(weights, [RELU]).value == pytest.approx(proved.value, rel=1e-3)


def test_combettes_and_pesquet_s_formula_for_three_layers():
    a, b, c = weights = random_weights(4, 6, 5, 3)
    terms = (norm(c @ b @ a), norm(c @ b) * norm(a), norm(c) * norm(b @ a), norm(c) * norm(b) * norm(a))
    assert combettes_pesquet(weights, [RELU] * 2).value == pytest.approx(sum(terms) / 4)


def test_combettes_and_pesquet_of_an_averaged_activation():
    a, b = weights = random_weights(4, 6, 3)
    leaky = (torch.tensor(0.2), torch.tensor(1.0))  # 0.6 + 0.4 Q
    expected = 0.6 * norm(b @ a) + 0.4 * norm(b) * norm(a)
    assert combettes_pesquet(weights, [leaky]).value == pytest.approx(expected)


def test_combettes_and_pesquet_of_forty_layers():
    weights = [torch.eye(3, dtype=torch.float64)] * 40
    assert combettes_pesquet(weights, [RELU] * 39).value == pytest.approx(1)


def convolution(layer, shape):
    (operation,) = (
        link.operation for link in read(nn.Sequential(layer), shape).links if isinstance(link.operation, Convolution)
    )
    return operation


def test_bessel_bound_of_one_channel_is_the_norm():
    layer = nn.Conv1d(1, 3, 3, padding=1, padding_mode="circular", bias=False)
    operation = convolution(layer, (1, 8))
    assert bessel_norm(operation, (1, 8)) == pytest.approx(operation.lipschitz(2, (1, 8)))


def test_bessel_bound_counts_the_channels_that_are_added():
    layer = nn.Conv2d(4, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [4.0, 1, 1, 1]])[..., None, None])
    # the first channel's filters have the Bessel bound 3² + 4², and four channels are added
    assert bessel_norm(convolution(layer, (4, 5, 5)), (4, 5, 5)) == pytest.approx(2 * 5)


def test_bessel_bound_of_groups_counts_the_channels_of_one():
    layer = nn.Conv2d(4, 4, 1, groups=4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -3.0, 2.0, 1.0])[:, None, None, None])
    assert bessel_norm(convolution(layer, (4, 5, 5)), (4, 5, 5)) == pytest.approx(3)


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 2}], ids=str)
def test_bessel_bound_is_above_the_norm(options):
    operation = convolution(nn.Conv2d(4, 6, 3, **options), (4, 9, 9))
    assert operation.lipschitz(2, (4, 9, 9)) <= bessel_norm(operation, (4, 9, 9))


@pytest.mark.parametrize("method", ["autolip", "zou", "seqlip", "combettes-pesquet"])
def test_published_bounds_hold_everywhere(method):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 20), nn.Sigmoid(), nn.Linear(20, 2))
    far = Box(torch.tensor([50.0, 50.0]), torch.tensor([51.0, 51.0]))
    assert upper_bound(read(model, (2,)), 2, far, method) == upper_bound(read(model, (2,)), 2, None, method)
    found = bracket(model, far, (2,), method=method, steps=1)
    assert found.method == method
    assert found.lower <= found.upper
