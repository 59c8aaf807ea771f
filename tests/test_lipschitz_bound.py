import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from cheaplip.bracket import lipsdp
from cheaplip.bracket.bound import LipschitzBound
from cheaplip.bracket.chain import read
from cheaplip.errors import UnsupportedLayerError


def mlp(sizes, activation, seed=0):
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1]).double()


CASES = [
    pytest.param((6, 9, 7, 3), nn.ReLU, id="to the outputs"),
    pytest.param((3, 8, 7, 5), nn.Tanh, id="to the inputs"),
    pytest.param((9, 4, 9), nn.LeakyReLU, id="wide at both ends"),
    pytest.param((9, 5, 4, 7), nn.GELU, id="negative slopes, wide at both ends"),
]


@pytest.mark.parametrize(("sizes", "activation"), CASES)
def test_value_is_the_certificate_of_its_multipliers(sizes, activation):
    model = mlp(sizes, activation)
    bound = LipschitzBound(model)
    bound.tighten_(seconds=2)
    weights, slopes = read(model, sizes[:1]).dense()
    best = lipsdp.certify(weights, slopes, lipsdp.optimise(weights, slopes)).value
    assert bound().item() == pytest.approx(best, rel=2e-3)
    x = torch.randn(5000, sizes[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobians = torch.func.vmap(torch.func.jacrev(model))(x).detach()
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= float(bound().detach())


@pytest.mark.parametrize(("sizes", "activation"), CASES)
def test_gradients_are_finite_differences(sizes, activation):
    model = mlp(sizes, activation)
    bound = LipschitzBound(model)
    parameters = [p for p in model.parameters() if p.dim() == 2] + list(bound.parameters())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for log in bound.parameters():
            log += 0.1 + 0.1 * torch.rand(log.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(bound(), parameters)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    step = 1e-5
    for parameter, gradient, direction in zip(parameters, gradients, directions, strict=True):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append(bound().item())
                parameter -= sign * step * direction
        slope = float((gradient * direction).sum())
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6)
    assert bound.restarts == 0


def test_residual_block_and_its_gradient():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = mlp((4, 6, 5, 4), nn.ReLU)

        def forward(self, x):
            return x + self.branch(x)

    model = nn.Sequential(Residual(), nn.Linear(4, 3)).double()
    bound = LipschitzBound(model, shape=(4,))
    with torch.no_grad():
        for log in bound.parameters():
            log += 0.1  # away from the optimum, where the largest eigenvalue is a double one
    weight = model[0].branch[2].weight
    (gradient,) = torch.autograd.grad(bound(), [weight])
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-5 * direction
            values.append(bound().item())
            weight -= sign * 1e-5 * direction
    assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_model_is_not_owned():
    model = mlp((3, 5, 4, 2), nn.ReLU)
    bound = LipschitzBound(model)
    assert sorted(bound.state_dict()) == ["log_multipliers.0", "log_multipliers.1"]
    assert [p.shape for p in bound.parameters()] == [(5,), (4,)]
    bound().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "weight" in name)
    assert model.training


def test_infeasible_multipliers_start_again_from_the_closed_form():
    model = mlp((3, 5, 2), nn.ReLU)
    bound = LipschitzBound(model)
    before = bound().item()
    with torch.no_grad():
        bound.log_multipliers[0].fill_(-30)
    assert bound().item() == pytest.approx(before, rel=1e-9)
    assert bound.restarts == 1


def test_training_tightens_multipliers_and_lowers_the_constant():
    model = mlp((4, 16, 16, 3), nn.ReLU)
    bound = LipschitzBound(model)
    start = bound().item()
    optimizer = torch.optim.Adam(bound.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        bound().backward()
        optimizer.step()
    tight = bound().item()
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    slopes = [(torch.tensor(0.0), torch.tensor(1.0))] * 2
    best = lipsdp.certify(weights, slopes, lipsdp.optimise(weights, slopes)).value
    assert best * (1 - 1e-9) <= tight <= 1.05 * best
    assert tight < 0.9 * start


def test_float32_model_divides_into_float32():
    model = mlp((4, 6, 3), nn.ReLU).float()
    bound = LipschitzBound(model)
    z = model(torch.rand(5, 4)) / bound()
    assert bound().dtype == torch.float64
    assert z.dtype == torch.float32
    z.sum().backward()
    assert all(p.grad is not None for p in bound.parameters())


def test_parametrised_weights_receive_gradients():
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    bound = LipschitzBound(model)
    bound().backward()
    assert model[0].parametrizations.weight.original.grad is not None


def test_zero_network_has_bound_near_zero_and_nan_weights_are_an_error():
    model = mlp((3, 4, 2), nn.ReLU)
    bound = LipschitzBound(model)
    with torch.no_grad():
        model[2].weight.zero_()
    assert 0 <= bound().item() < 1e-100
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="weight 1: expected finite numbers, got NaN or infinity"):
        bound()


def test_refusals_say_what_to_do():
    with pytest.raises(TypeError, match="model: expected a module, got builtin_function_or_method: a plain function"):
        LipschitzBound(torch.sin)
    with pytest.raises(ValueError, match="shape: expected the shape of one input, as the model does not start with a"):
        LipschitzBound(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    with pytest.raises(UnsupportedLayerError, match="is neither affine nor elementwise"):
        LipschitzBound(nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=1), nn.Linear(4, 2)))
