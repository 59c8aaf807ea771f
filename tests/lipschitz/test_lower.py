import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Box, PairSet
from cheaplip.lipschitz import largest_quotient


def linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


@pytest.mark.parametrize(
    ("norm_in", "norm_out", "exact"),
    [
        pytest.param(2, 2, lambda w: torch.linalg.matrix_norm(w, 2), id="2-2"),
        pytest.param(math.inf, math.inf, lambda w: w.abs().sum(dim=1).max(), id="inf-inf"),
        pytest.param(1, 1, lambda w: w.abs().sum(dim=0).max(), id="1-1"),
        pytest.param(1, 2, lambda w: w.norm(dim=0).max(), id="1-2"),
    ],
)
def test_affine_map_reaches_its_operator_norm(norm_in, norm_out, exact):
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    found = largest_quotient(linear(weight), torch.rand(50, 6), size=32, steps=40, norm_in=norm_in, norm_out=norm_out)
    truth = exact(weight.double()).item()
    assert 0.99 * truth <= found.value <= truth * (1 + 1e-9)


def test_absolute_value_from_two_relus_has_constant_one():
    found = largest_quotient(lambda x: torch.relu(x) + torch.relu(-x), torch.randn(20, 1), size=8, steps=20)
    assert found.value == pytest.approx(1.0, abs=1e-9)


def test_steepest_segment_of_a_one_dimensional_relu_network_is_found():
    # f climbs with slope 3 on [0.6, 0.7] alone, and with slope 1/2 elsewhere
    def network(x):
        return 0.5 * x + 2.5 * torch.relu(x - 0.6) - 2.5 * torch.relu(x - 0.7)

    found = largest_quotient(network, torch.rand(100, 1), domain=Box(0.0, 1.0), size=64, steps=60)
    assert found.value == pytest.approx(3.0, rel=1e-6)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), width=st.integers(2, 12))
def test_never_above_the_product_of_norms_and_true_for_its_witness(seed, width):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(shape, generator=generator) for shape in ((width, 3), (2, width)))
    model = nn.Sequential(linear(first), nn.Tanh(), linear(second))
    x = torch.rand(20, 3, generator=generator)
    found = largest_quotient(model, x, domain=Box(0.0, 1.0), size=8, steps=10)
    product = torch.linalg.matrix_norm(first.double(), 2) * torch.linalg.matrix_norm(second.double(), 2)
    u, v = found.witness
    exact = model.double()
    assert u.dtype == v.dtype == torch.float64
    assert u.shape == v.shape == (3,)
    assert found.value == pytest.approx(((exact(u) - exact(v)).norm() / (u - v).norm()).item(), rel=1e-6)
    assert found.value <= product.item() * (1 + 1e-9)
    assert Box(0.0, 1.0).contains(torch.stack([u, v]))


def test_training_pairs_are_searched_too():
    # a step so narrow that no start near the data finds it; the given pair sits on it
    def network(x):
        return torch.sigmoid(2000 * (x - 5.0))

    x = torch.linspace(0, 1, 20).unsqueeze(1)
    pairs = PairSet(torch.tensor([[5.0]]), size=1)
    blind = largest_quotient(network, x, size=8, steps=10).value
    assert blind < 1
    assert largest_quotient(network, x, starts=pairs, size=8, steps=10).value > 10


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.rand(10, 3)
    state = torch.random.get_rng_state()
    largest_quotient(model, x, size=4, steps=5)
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
