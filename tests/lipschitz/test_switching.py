"""Where activations switch, and the steps to there."""

import pytest
import torch
from torch import nn

from cheaplip import Box
from cheaplip.lipschitz import read
from cheaplip.lipschitz.search.lower import largest_quotient
from cheaplip.lipschitz.search.switching import nearest_switch, switches
from networks import mlp


def made(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double().eval()


def test_the_finite_sides_of_a_box_count_as_switches():
    box = Box(0.0, torch.tensor([1.0, torch.inf]))
    values = switches(read(made(nn.Linear(2, 1), nn.ReLU()), (2,)), box)
    assert values(torch.tensor([[0.25, 2.0]]).double())[:, :-1].tolist() == [[0.25, 2.0, -0.75]]


def test_values_vanish_where_an_activation_switches():
    model = made(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Hardtanh(-1.0, 2.0))
    values = switches(read(model, (2,)))
    x = torch.rand(5, 2, dtype=torch.float64)
    z, y = model[0](x), model[:3](x)
    torch.testing.assert_close(values(x), torch.cat([z, y + 1, y - 2], dim=1))


@pytest.mark.parametrize(
    "model", [made(nn.Linear(2, 3)), made(nn.Linear(2, 5000), nn.ReLU())], ids=["affine", "too many"]
)
def test_none_where_there_are_none_or_too_many(model):
    assert switches(read(model, (2,))) is None


def test_step_to_a_corner_of_the_first_layer_is_exact():
    model = made(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    values = switches(read(model, (3,)))
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(i))[:3] for i in range(20)])
    corner = x + nearest_switch(values, x, chosen)
    assert float(values(corner).detach().gather(1, chosen).abs().max()) < 1e-8


def test_step_to_one_switch_is_the_shortest():
    model = made(nn.Linear(3, 4), nn.Tanh())
    values = switches(read(model, (3,)))
    x = torch.randn(6, 3, dtype=torch.float64)
    step = nearest_switch(values, x, torch.full((6, 1), 2))
    torch.testing.assert_close(step.norm(dim=1), (values(x)[:, 2] / model[0].weight[2].norm()).abs().detach())


def test_a_neuron_without_a_gradient_gives_no_step():
    model = made(nn.Linear(2, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
    values = switches(read(model, (2,)))
    assert not nearest_switch(values, torch.rand(4, 2, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.long)).any()


def test_a_region_too_small_for_random_moves_is_found():
    # slope 1000 on an interval of length 1e-5, of slope 1 elsewhere
    model = made(*mlp(1, 3, 1))
    values = ([[1.0], [1.0], [1.0]], [20.0, -0.6, -0.60001], [[1.0, 999.0, -999.0]], [0.0])
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.data = torch.tensor(value, dtype=torch.float64)
    x, box = torch.rand(50, 1, dtype=torch.float64), Box(0.0, 1.0)
    options = {"domain": box, "size": 32, "steps": 20}
    found = largest_quotient(model, x, switches=switches(read(model, (1,))), **options).value
    assert found == pytest.approx(1000, rel=1e-3)
    assert largest_quotient(model, x, **options).value < 900
