import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from cheaplip.domain import Box
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz import read, register_layer
from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds import trainable as bound_module
from cheaplip.lipschitz.bounds.products import norm_product
from cheaplip.lipschitz.bounds.trainable import LipschitzBound
from cheaplip.lipschitz.reading.operations import convolution
from cheaplip.lipschitz.search.lower import largest_quotient
from cheaplip.training.models import build
from networks import Apply


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
    model = nn.Sequential(Residual(mlp((4, 6, 5, 4), nn.ReLU)), nn.Linear(4, 3)).double()
    bound = LipschitzBound(model, shape=(4,))
    with torch.no_grad():
        for log in bound.parameters():
            log += 0.1 * torch.randn(log.shape, dtype=log.dtype)  # away from double largest eigenvalues
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


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def conv_net(kind):
    """For inputs (1, 8, 8): seeded, float64, in evaluation mode."""
    torch.manual_seed(3)
    layers = {
        "max pooling": [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
        "stride": [nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU()],
        "dilation and groups": [
            nn.Conv2d(1, 6, 1),
            nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=2),
            nn.Tanh(),
            nn.AvgPool2d(2, ceil_mode=True),
        ],
        "batch norm": [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)],
        "residual": [
            nn.Conv2d(1, 6, 3, padding=1),
            Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))),
            nn.MaxPool2d(2),
        ],
        "periodic": [nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.MaxPool2d(2)],
    }[kind]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -2, 2)
            layer.running_var.uniform_(0.5, 2)
    return model.eval()


KINDS = ["max pooling", "stride", "dilation and groups", "batch norm", "residual", "periodic"]


@pytest.fixture(params=["as it is", "by norms"])
def large(request, monkeypatch):
    """Small networks as they are, or with convolutions taken for large ones: not written out in any way."""
    if request.param == "by norms":
        monkeypatch.setattr(bound_module, "_ENTRIES", 0)
        monkeypatch.setattr(convolution, "_ENTRIES", 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("large")
def test_convolutional_networks_are_bounded(kind):
    model = conv_net(kind)
    bound = LipschitzBound(model, shape=(1, 8, 8))
    value = bound().item()
    x = torch.randn(100, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x).detach().flatten(2)
    lower = float(torch.linalg.matrix_norm(jacobians, 2).max())
    product = norm_product(read(model, (1, 8, 8)))
    assert lower <= value <= product * (1 + 1e-9)
    assert bound.tighten_(seconds=0.5) <= value
    assert lower <= bound().item() < 0.9 * product  # what the layers behind the convolutions gain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("large")
def test_gradients_of_convolutional_networks_are_finite_differences(kind):
    model = conv_net(kind)
    bound = LipschitzBound(model, shape=(1, 8, 8))
    with torch.no_grad():
        for log in bound.parameters():
            log += 0.1 * torch.randn(log.shape, dtype=log.dtype)  # away from double largest eigenvalues
    parameters = [p for name, p in model.named_parameters() if "weight" in name] + list(bound.parameters())
    gradients = torch.autograd.grad(bound(), parameters)
    generator = torch.Generator().manual_seed(2)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                values.append(bound().item())
                parameter -= sign * 1e-5 * direction
        assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["stride", "dilation and groups"])
def test_norms_are_a_little_above_the_matrices(kind, monkeypatch):
    model = conv_net(kind)
    written = LipschitzBound(model, shape=(1, 8, 8)).tighten_(seconds=2)
    monkeypatch.setattr(bound_module, "_ENTRIES", 0)
    assert written <= LipschitzBound(model, shape=(1, 8, 8)).tighten_(seconds=2) <= 3 * written


def test_madrys_network_is_bounded():
    model = build("cnn", (1, 28, 28), 10, seed=0)
    bound = LipschitzBound(model, (1, 28, 28))
    poolings = [(65,), (65,)], [(129,), (129,)]  # two rounds each
    assert [p.shape for p in bound.parameters()] == [(33,), *poolings[0], (65,), *poolings[1], (1025,)]
    value = bound()
    value.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters() if "weight" in name)
    found = largest_quotient(model, torch.rand(8, 1, 28, 28), domain=Box(0.0, 1.0), size=8, steps=5)
    assert 0 < found.value <= value.item() <= norm_product(read(model, (1, 28, 28)))


def test_what_weights_of_zero_hide_is_compared_with_the_model():
    hidden = Apply(lambda x: x if torch.compiler.is_compiling() else 3.0 * x)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), hidden)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    with pytest.raises(UnsupportedLayerError, match="does not compute what its traced graph computes"):
        LipschitzBound(model)


def test_norms_alone_have_no_multipliers():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(72, 2))
    bound = LipschitzBound(model, shape=(1, 8, 8))
    assert list(bound.parameters()) == []
    assert bound.tighten_() == bound().item() == pytest.approx(norm_product(read(model, (1, 8, 8))))


@pytest.mark.usefixtures("large")
def test_training_lowers_the_bound_of_a_convolutional_network():
    model = conv_net("max pooling")
    bound = LipschitzBound(model, shape=(1, 8, 8))
    optimizer = torch.optim.SGD([*model.parameters(), *bound.parameters()], lr=0.01)
    values = []
    for _ in range(10):
        value = bound()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert all(after < before for before, after in pairwise(values))


def test_nan_weights_of_a_convolution_are_an_error():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    bound = LipschitzBound(model, shape=(1, 8, 8))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="expected finite numbers, got NaN or infinity"):
        bound()


class Rooted(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x, norm="ortho").real


def test_refusals_say_what_to_do():
    with pytest.raises(TypeError, match="model: expected a module, got builtin_function_or_method: a plain function"):
        LipschitzBound(torch.sin)
    with pytest.raises(ValueError, match="shape: expected the shape of one input, as the model does not start with a"):
        LipschitzBound(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    register_layer(Rooted, lambda layer: 1.0, norm=1)
    with pytest.raises(
        UnsupportedLayerError, match=r"no Lipschitz constant in norm 2 is known for layer '1' \(Rooted\)"
    ):
        LipschitzBound(nn.Sequential(nn.Linear(3, 4), Rooted(), nn.Linear(4, 2)))


def test_where_no_closed_form_is_finite_the_bound_is_infinite():
    model = nn.Sequential(nn.Conv2d(1, 40, 3, padding=1), nn.Tanh(), nn.Conv2d(40, 40, 3, padding=1)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e180)
    bound = LipschitzBound(model, (1, 16, 16))
    assert bound().item() == math.inf
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-180)
    again = bound()
    assert 0 < again.item() < math.inf
    again.backward()
    assert model[0].weight.grad.abs().sum() > 0
