"""Radii from bounds in the ball around each input."""

import math

import pytest
import torch
from torch import nn

from cheaplip import Ball, Box, UnsupportedLayerError, bracket, certified_accuracy, certified_radius
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.local import LocalBounds


class Residual(nn.Module):
    """A perceptron with a value that bypasses an activation."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.first(x))
        return self.last(x + self.activation(self.second(x)))


class Sorted(nn.Module):
    """MaxMin: neighbours in order."""

    def forward(self, x):
        return x.reshape(x.shape[0], -1, 2).sort(dim=2)[0].reshape(x.shape)


MODELS = {
    "relu": lambda: nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3)),
    "gelu": lambda: nn.Sequential(nn.Linear(4, 12), nn.GELU(), nn.Linear(12, 3)),
    "residual": lambda: Residual(nn.ELU()),
    "absolute": lambda: Residual(nn.LeakyReLU(-0.5)),
    "prelu": lambda: nn.Sequential(nn.Linear(4, 9), nn.PReLU(9, 0.4), nn.Linear(9, 3)),
    "maxmin": lambda: nn.Sequential(nn.Linear(4, 8), Sorted(), nn.Linear(8, 6), Sorted(), nn.Linear(6, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(12, 3)
    ),
}


def made(name):
    torch.manual_seed(len(name))
    model = MODELS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, x


def jacobians(model, x):
    """The Jacobian at each input, (B, 3, 4)."""
    return torch.autograd.functional.jacobian(lambda u: model(u).sum(dim=0), x).movedim(0, 1)


def smallest_lead(model, x, radius, count=100, steps=15):
    """Attack each input within its radius: the smallest lead of the predicted class that is met, (B,)."""
    generator = torch.Generator().manual_seed(2)
    prediction = model(x).argmax(dim=1).repeat_interleave(count)
    rows = torch.arange(len(prediction))
    size = radius.repeat_interleave(count).unsqueeze(1)
    center = x.repeat_interleave(count, dim=0)
    away = torch.randn(len(center), x.shape[1], dtype=torch.float64, generator=generator)

    def lead(u):
        out = model(u)
        others = out.clone()
        others[rows, prediction] = -math.inf
        return out[rows, prediction] - others.amax(dim=1)

    for _ in range(steps):
        away = size * away / away.norm(dim=1, keepdim=True)
        u = (center + away).requires_grad_()
        gradient = torch.autograd.grad(lead(u).sum(), u)[0]
        away = away - 0.3 * size * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-300)
    away = size * away / away.norm(dim=1, keepdim=True)
    return lead(center + away).detach().reshape(len(x), count).amin(dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_no_attack_within_the_radius_changes_the_class(name):
    model, x = made(name)
    b = bracket(model, shape=(4,), seconds=0.5)
    radius = certified_radius(model, x, b, local=True)
    assert bool((smallest_lead(model, x, radius) > 0).all())


@pytest.mark.parametrize("name", MODELS)
def test_the_global_radius_is_a_floor(name):
    model, x = made(name)
    b = bracket(model, shape=(4,), seconds=0.5)
    near, whole = certified_radius(model, x, b, local=True), certified_radius(model, x, b)
    assert bool((near >= whole).all())
    assert float((near / whole).median()) > 1.2


def test_a_sigmoid_that_is_saturated_around_an_input_proves_more_there():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), ([[8.0]], [0.0], [[1.0], [-1.0]], [-0.5, 0.5]), strict=True):
            parameter.copy_(torch.tensor(value))
    x = torch.tensor([[1.0]], dtype=torch.float64)  # the classes change at 0
    b = bracket(model, shape=(1,), seconds=0.5)
    near = certified_radius(model, x, b, local=True).item()
    assert certified_radius(model, x, b).item() < 0.3 < near < 1.0


@pytest.mark.parametrize("name", MODELS)
def test_bounds_in_a_ball_hold_for_its_jacobians(name):
    model, x = made(name)
    bounds = LocalBounds(read(model, (4,)))
    radius = torch.linspace(0.0, 2.0, len(x), dtype=torch.float64)
    lipschitz, _ = bounds(bounds.values(x), radius)
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        away = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        u = x + radius.unsqueeze(1) * away / away.norm(dim=1, keepdim=True).clamp_min(1.0)
        jacobian = jacobians(model, u)
        between = (jacobian.unsqueeze(1) - jacobian.unsqueeze(2)).norm(dim=3)
        assert bool((between <= lipschitz * (1 + 1e-9)).all())


def test_a_ball_of_radius_0_has_the_norm_of_the_jacobian():
    model, x = made("sigmoid")
    bounds = LocalBounds(read(model, (4,)))
    lipschitz, _ = bounds(bounds.values(x), torch.zeros(len(x), dtype=torch.float64))
    jacobian = jacobians(model, x)
    torch.testing.assert_close(
        lipschitz, (jacobian.unsqueeze(1) - jacobian.unsqueeze(2)).norm(dim=3), rtol=1e-3, atol=1e-7
    )


def test_accuracy_counts_local_radii():
    model, x = made("relu")
    b = bracket(model, shape=(4,), seconds=0.5)
    y = model(x).argmax(dim=1)
    radius = certified_radius(model, x, b, local=True)
    epsilon = float(radius.median()) * 0.999
    local = certified_accuracy(model, [(x[:5], y[:5]), (x[5:], y[5:])], b, epsilon, local=True)
    assert local == float((radius > epsilon).double().mean())
    assert local > certified_accuracy(model, [(x, y)], b, epsilon)


def test_domains_limit_local_radii_too():
    model, x = made("relu")
    ball = Ball(x[0], 0.1)
    inside = bracket(model, ball, seconds=0.5)
    assert float(certified_radius(model, x[:1], inside, local=True)) <= 0.1
    box = bracket(model, Box(-5.0, 5.0), shape=(4,), seconds=0.5)
    assert bool((certified_radius(model, x, box, local=True) > 0).all())


def layer(weight, bias=None):
    made = nn.Linear(len(weight[0]), len(weight), bias=bias is not None).double()
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        if bias is not None:
            made.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return made


def test_an_affine_model_has_its_exact_radius():
    model, x = layer([[3.0, 4.0], [-3.0, -4.0]]), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    b = bracket(model, shape=(2,), seconds=0.5)
    assert certified_radius(model, x, b, local=True).item() == pytest.approx(5.0)


@pytest.mark.parametrize("after", [(), (nn.ReLU(), layer([[1.0, 0.0], [0.0, 1.0]]))], ids=["outputs", "neurons"])
def test_the_rounding_of_merged_matrices_counts(after):
    n = 2.0**27 + 1  # n² − 2⁵⁴ − 2²⁸ is 1, and 0 in float64
    model = nn.Sequential(layer([[n], [1.0]]), layer([[n, -(2.0**54 + 2.0**28)], [0.0, 0.0]], [1000.0, 0.0]), *after)
    b = bracket(model, shape=(1,), steps=5, seconds=2.0)
    radius = certified_radius(model, torch.zeros(1, 1, dtype=torch.float64), b, local=True)
    assert 0 < radius.item() <= 1000  # f₁ − f₂ is x + 1000


@pytest.mark.parametrize("name", ["relu", "residual"])
def test_a_radius_does_not_depend_on_the_other_inputs(name):
    model, x = made(name)
    b = bracket(model, shape=(4,), steps=1, seconds=0.5)
    alone = torch.cat([certified_radius(model, row[None], b, local=True) for row in x])
    torch.testing.assert_close(certified_radius(model, x, b, local=True), alone, rtol=1e-6, atol=0.0)


def test_a_model_too_large_for_matrices_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 1024, 2))
    b = bracket(model, shape=(1, 32, 32), seconds=1.0, method="norms")
    with pytest.raises(UnsupportedLayerError, match=r"local: layer '0' .* certify without it"):
        certified_radius(model, torch.rand(1, 1, 32, 32), b, local=True)
