import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Box
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.exact import exact_constant

pytest.importorskip("scipy")


def network(sizes, seed, activation=nn.ReLU):
    """Linear layers with random weights and biases, float64."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out).double(), activation()]
    return randomised(nn.Sequential(*layers[:-1]), seed)


def randomised(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** -0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@cache
def example(sizes, activation=nn.ReLU):
    """A model and its chain, which follows its weights: tracing takes longer than everything else here."""
    model = network(sizes, 0, activation)
    return model, read(model, sizes[:1])


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 1)], ids=str)
def test_affine_chain_has_the_norm_of_its_product(shape):
    model = nn.Sequential(network(shape, 1), network((shape[1], 2), 2))
    product = (model[1][0].weight @ model[0][0].weight).detach()
    found = exact_constant(read(model, (shape[0],)))
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(product, 2)), rel=1e-12)
    assert found.value <= found.upper <= found.value * (1 + 1e-11)
    assert found.regions == 1


@pytest.mark.parametrize(
    ("activation", "sign", "expected"),
    [
        pytest.param(nn.ReLU(), 1.0, 1.0, id="relu: |x|"),
        pytest.param(nn.ReLU(), -1.0, 1.0, id="relu: x"),
        pytest.param(nn.LeakyReLU(0.1), 1.0, 0.9, id="leaky"),
        pytest.param(nn.Hardtanh(), -1.0, 2.0, id="hardtanh"),
    ],
)
def test_sum_of_an_activation_and_its_mirror_image(activation, sign, expected):
    model = nn.Sequential(nn.Linear(1, 2), activation, nn.Linear(2, 1)).double()
    values = ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, sign]], [0.0])
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.data = torch.tensor(value, dtype=torch.float64)
    assert exact_constant(read(model, (1,))).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_one_input_reaches_the_steepest_segment_of_a_fine_grid(seed):
    model, chain = example((1, 6, 5, 2))
    randomised(model, seed)
    found = exact_constant(chain)
    grid = torch.linspace(-30, 30, 200_001, dtype=torch.float64).reshape(-1, 1)
    with torch.no_grad():
        y = model(grid)
    steepest = float(((y[1:] - y[:-1]).norm(dim=1) / (grid[1:] - grid[:-1]).flatten()).max())
    assert found.value == pytest.approx(steepest, rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "activation"),
    [((2, 8, 3), nn.ReLU), ((3, 6, 2), nn.LeakyReLU), ((2, 5, 5, 2), nn.ReLU)],
    ids=["relu", "leaky", "deep"],
)
def test_every_sampled_jacobian_is_below_and_the_steepest_is_found(sizes, activation):
    model = network(sizes, 3, activation)
    found = exact_constant(read(model, sizes[:1]))
    x = 3 * torch.randn(20_000, sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norms = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(model))(x), 2).detach()
    assert float(norms.max()) <= found.value * (1 + 1e-12)
    assert found.value == pytest.approx(float(norms.max()), rel=0.1)  # small far-away regions may be missed


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_never_below_a_quotient_or_a_jacobian_in_the_domain(seed):
    (model, chain), box = example((2, 5, 4, 2)), Box(-1.0, 1.0)
    randomised(model, seed)
    inside, everywhere = exact_constant(chain, box), exact_constant(chain)
    x = 2 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    with torch.no_grad():
        quotients = (model(x[1:]) - model(x[:-1])).norm(dim=1) / (x[1:] - x[:-1]).norm(dim=1)
    norms = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(model))(x), 2).detach()
    assert max(quotients.max(), norms.max()) <= inside.value * (1 + 1e-12)
    assert inside.value <= everywhere.value * (1 + 1e-12)
    assert inside.regions <= everywhere.regions


def test_residual_block_and_box_that_leaves_one_region():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = network((2, 4, 2), 5)

        def forward(self, x):
            return x + self.branch(x)

    model, low = Residual(), torch.tensor([5.0, 5.0], dtype=torch.float64)
    with torch.no_grad():
        model.branch[0].weight.abs_()
    found = exact_constant(read(model, (2,)), Box(low, low + 1))
    weights = torch.eye(2, dtype=torch.float64) + (model.branch[2].weight @ model.branch[0].weight).detach()
    assert found.regions == 1
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(weights, 2)), rel=1e-12)


def test_refuses_curved_layers_and_too_many_regions():
    with pytest.raises(UnsupportedLayerError, match=r"layer '1' is not piecewise linear: expected affine maps and"):
        exact_constant(read(network((2, 3, 1), 0, nn.Tanh), (2,)))
    with pytest.raises(ValueError, match="expected a network with at most 10 regions on which it is affine, got more"):
        exact_constant(read(network((3, 20, 1), 0), (3,)), limit=10)


def test_zero_network_has_constant_zero():
    model = network((2, 3, 1), 0)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert exact_constant(read(model, (2,))) == (0.0, 0.0, 1)
    assert math.isfinite(exact_constant(read(model, (2,)), Box(0.0, 1.0)).upper)
