"""Methods that make the norms of layers small: spectral projection and norm decay."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from cheaplip.errors import ConfigError
from cheaplip.training import TrainConfig
from cheaplip.training.methods.constraints.spectral import LayerProjection
from cheaplip.training.methods.weight_layers import absolute_norm
from penalties import seeded
from training_runs import method_on, term_of, toy_data

ORDERS = {"1": 1, "2": 2, "inf": float("inf")}


def matrix_of(layer, shape):
    """A layer without its bias, as a matrix."""
    at = torch.zeros(1, *shape)
    return torch.func.jacrev(layer)(at).reshape(layer(at).numel(), at.numel())


def norm_of(layer, shape, norm):
    return torch.linalg.matrix_norm(matrix_of(layer, shape), ord=ORDERS[norm]).item()


LAYERS = {
    "dense": (lambda: nn.Linear(7, 5), (7,)),
    "dense without bias": (lambda: nn.Linear(5, 7, bias=False), (5,)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 6, 6)),
    "convolution in groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 6, 6)),
    "convolution with stride": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding_mode="circular", padding=1), (2, 8)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5)),
}


@pytest.mark.parametrize("norm", ["1", "inf"])
@pytest.mark.parametrize("kind", LAYERS)
def test_norms_by_sums_are_those_of_the_matrix(kind, norm):
    build, shape = LAYERS[kind]
    layer = seeded(build)
    exact = norm_of(layer, shape, norm)
    found = absolute_norm(layer, norm).item()
    assert found >= exact * (1 - 1e-6)
    if "stride" not in kind:  # where an input meets all taps of the kernel, the sum is the norm
        assert found == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("kind", LAYERS)
def test_projected_layers_have_the_norm_of_the_bound(kind, norm):
    build, shape = LAYERS[kind]
    layer = seeded(build)
    with torch.no_grad():
        layer.weight.mul_(100)
    before = layer.weight.clone()
    project = LayerProjection(0.5, layer, torch.rand(1, *shape), norm=norm, generator=torch.Generator().manual_seed(0))
    for _ in range(50 if norm == "2" else 1):  # of one weight; a power iteration goes on with each step
        with torch.no_grad():
            layer.weight.copy_(before)
        project()
    exact = norm_of(layer, shape, norm)
    assert exact <= 2.0 * (1 + (1e-3 if norm == "2" else 1e-6))
    assert "stride" in kind or exact == pytest.approx(2.0, rel=1e-3)
    torch.testing.assert_close(layer.weight / layer.weight.norm(), before / before.norm())


def test_a_known_spectral_norm_is_met_at_once():
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([8.0, 2.0, 1.0])))
    LayerProjection(1.0, layer, torch.rand(1, 3), norm="2", generator=torch.Generator().manual_seed(0))()
    torch.testing.assert_close(layer.weight.detach(), torch.diag(torch.tensor([1.0, 0.25, 0.125])))


@pytest.mark.parametrize("norm", ORDERS)
def test_layers_within_the_bound_stay_as_they_are(norm):
    layer = seeded(lambda: nn.Linear(4, 4))
    before = layer.weight.clone()
    project = LayerProjection(1e-3, layer, torch.rand(1, 4), norm=norm, generator=torch.Generator().manual_seed(0))
    project()
    assert torch.equal(layer.weight, before)


def test_the_largest_factor_of_a_batch_norm_is_bounded_too():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([-6.0, 1.0, 2.0]))
        network[1].running_var.copy_(torch.tensor([4.0, 1.0, 1.0]))
    LayerProjection(1.0, network, torch.rand(1, 3), norm="2", generator=torch.Generator().manual_seed(0))()
    factors = network[1].weight / (network[1].running_var + network[1].eps).sqrt()
    torch.testing.assert_close(factors.detach(), torch.tensor([-1.0, 1 / 3, 2 / 3]))


@pytest.mark.parametrize("norm", ORDERS)
def test_a_step_of_spectral_leaves_every_layer_within_the_bound(norm):
    data = toy_data()
    network = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    method = method_on("spectral", network, data, lam=4.0, norm_of_layers=norm)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(5):
        optimizer.zero_grad()
        method.losses(network, *data.train).total.backward()
        optimizer.step()
        method.after_step()
        for layer in (network[0], network[2]):
            exact = torch.linalg.matrix_norm(layer.weight, ord=ORDERS[norm]).item()
            assert exact <= 0.25 * (1 + (1e-2 if norm == "2" else 1e-6))


def test_norm_decay_is_lambda_times_the_sum_of_the_norms():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1)))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 4.0]]))
        network[1][0].weight.copy_(torch.tensor([[3.0, 1.0]]))
    data = toy_data((2,))
    for norm, expected in (("inf", 4.5 + 4), ("1", 6 + 3)):
        method = method_on("norm-decay", network, data, norm_of_layers=norm)
        assert method.output_and_term(network, data.train.x)[1].item() == pytest.approx(expected)


def test_norm_decay_pulls_at_the_largest_row_alone():
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, -3.0], [0.0, 4.0]]))
    method = method_on("norm-decay", layer, toy_data((2,)))
    method.output_and_term(layer, toy_data((2,)).train.x)[1].backward()
    assert layer.weight.grad.tolist() == [[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", ["spectral", "norm-decay"])
def test_a_model_without_dense_or_convolutional_layers_is_refused(name):
    message = f"method: {name} needs a model with dense or convolutional layers, got one without any"
    with pytest.raises(ConfigError, match=message):
        method_on(name, nn.Sequential(nn.LSTM(6, 3)), toy_data())


def test_weights_that_a_parametrization_computes_are_not_projected():
    network = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 3)))
    with pytest.raises(ConfigError, match=re.escape("those of layer '0' are computed by a parametrization")):
        method_on("spectral", network, toy_data())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_of_layers": "3"}, "norm_of_layers: expected one of 1, 2, inf, got '3'"),
        ({"norm_of_layers": "2", "method": "norm-decay"}, "expected 1 or inf with --method norm-decay, got 2"),
        ({"method": "spectral", "lam": -1.0}, "lam: expected a finite number of at least 0, got -1.0"),
    ],
    ids=lambda value: None if isinstance(value, dict) else "",
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(data="digits", **options)


def test_spectral_does_not_change_the_loss():
    data = toy_data()
    network = nn.Linear(6, 3)
    total, fit, _ = method_on("spectral", network, data).losses(network, *data.train)
    assert total.item() == fit.item()
    assert term_of(method_on("norm-decay", network, data), network, data) > 0
