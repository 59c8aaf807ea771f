"""Sorted pairs, MaxMin and CReLU in bounds of whole networks: they are affine maps about an absolute value."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from cheaplip import LipschitzBound, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.lipschitz.bounds.products import norm_product
from cheaplip.lipschitz.bounds.ranges import enclose
from networks import Apply, GroupSort, MaxMin, exact_copy


def network(activation, *widths, seed=0):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).eval()


def product_of_norms(model, norm=2):
    return math.prod(
        float(torch.linalg.matrix_norm(layer.weight.detach().double(), norm))
        for layer in model
        if isinstance(layer, nn.Linear)
    )


def largest_slope(model, width, count=500):
    exact = exact_copy(model)
    x = 3 * torch.randn(count, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda z: exact(z[None])[0]))(x)
    return float(torch.linalg.matrix_norm(jacobians.detach(), 2).max())


pairs = pytest.mark.parametrize("activation", [MaxMin, GroupSort], ids=lambda kind: kind.__name__)


@pairs
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_the_product_of_norms_loses_nothing(activation, norm):
    model = network(activation, 6, 8, 8, 3)
    assert norm_product(read(model, (6,)), norm) == pytest.approx(product_of_norms(model, norm), rel=1e-9)


@pairs
def test_lipsdp_is_far_below_the_product_of_norms(activation):
    model = network(activation, *[16] * 7)
    found = upper_bound(read(model, (16,)), 2, method="lipsdp", seconds=2.0)
    assert largest_slope(model, 16) <= found.value <= 0.4 * product_of_norms(model)
    assert found.reason == ""


def test_lipsdp_gains_more_in_a_deep_network():
    model = network(MaxMin, *[16] * 19)
    found = upper_bound(read(model, (16,)), 2, method="closed-form")
    assert largest_slope(model, 16, 20) <= found.value <= 0.3 * product_of_norms(model)


@pairs
def test_the_exact_constant_is_known(activation):
    model = network(activation, 2, 4, 4, 2)
    chain = read(model, (2,))
    exact = exact_constant(chain)
    assert largest_slope(model, 2) == pytest.approx(exact.value, rel=1e-6)
    assert exact.upper <= upper_bound(chain, 2, method="lipsdp", seconds=1.0).value


def test_orthogonal_layers_and_max_min_have_the_constant_1():
    model = network(MaxMin, *[8] * 6)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    for method in ("lipsdp", "norms"):
        assert upper_bound(read(model, (8,)), 2, method=method, seconds=0.5).value == pytest.approx(1, abs=1e-3)


def test_a_maximum_and_a_minimum_share_their_absolute_value():
    chain = read(network(MaxMin, 6, 8, 3), (6,))
    weights, [(low, high)] = chain.dense()
    assert [tuple(weight.shape) for weight in weights] == [(8, 6), (3, 8)]
    assert sorted(low.tolist()) == [-1] * 4 + [1] * 4
    assert high.tolist() == [1] * 8


def test_max_min_with_images_is_bounded_by_lipsdp():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), MaxMin(), nn.Conv2d(4, 4, 3), MaxMin(), nn.Flatten(), nn.Linear(64, 3)]
    chain = read(nn.Sequential(*layers).eval(), (1, 8, 8))
    assert upper_bound(chain, 2, method="lipsdp", seconds=1.0).value < 0.9 * norm_product(chain)


def test_the_trainable_bound_goes_through_max_min():
    model = network(MaxMin, 6, 8, 8, 3)
    bound = LipschitzBound(model)
    value = bound()
    assert len(bound.log_multipliers) == 2
    assert largest_slope(model, 6) <= float(value.detach()) < product_of_norms(model)
    value.backward()
    assert all(bool(torch.isfinite(layer.weight.grad).all()) for layer in model if isinstance(layer, nn.Linear))


def test_rectifying_both_ways_has_the_constant_1():
    model = nn.Sequential(Apply(lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=1)), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0] * 4 + [-1.0] * 4, [0.0] * 8]))  # back to the sum of x
    assert bracket(model, shape=(4,), steps=5, seconds=1.0).upper <= 2 * math.sqrt(2) * (1 + 1e-9)


def test_enclosures_do_not_widen_with_the_depth():
    model = network(MaxMin, *[8] * 25)
    x = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = enclose(read(model, (8,)), x)
    out = exact_copy(model)(x).detach()
    assert bool((low <= out).all() & (out <= high).all())
    assert float((high - low).max()) < 1e-8
