"""Penalties on derivatives and on quotients of a network: what they measure of maps with a known answer."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn

from cheaplip import Box
from cheaplip.data import Split
from cheaplip.errors import ConfigError
from cheaplip.training.methods.penalties.alr import adversarial_partners
from cheaplip.training.methods.penalties.gradient_penalty import at_and_between, gradient_lengths
from cheaplip.training.methods.penalties.input_gradients import outputs_at
from cheaplip.training.methods.penalties.jacobian import squared_frobenius_norm
from cheaplip.training.methods.penalties.laplacian import nearest_neighbours
from cheaplip.training.methods.penalties.operator_norm import spectral_norms
from penalties import BatchNormModel, seeded
from training_runs import method_on, term_of, toy_data


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(matrix):
    layer = nn.Linear(len(matrix[0]), len(matrix))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(matrix))
    return layer


ONE_OUTPUT = linear([[3.0, 0.0, 4.0]])
DIAGONAL = linear([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
DIAGONAL_OF_THREE = linear([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
EVERYWHERE = Box(-math.inf, math.inf)
POINTS = torch.rand(16, 3, generator=generator(1))


class Squares(nn.Module):
    """x ↦ w x²: its Jacobian at x is diagonal, with the entries 2 w x."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x.square()


@pytest.mark.parametrize(
    ("name", "expected"), [("jacobian", 25.0), ("gradient-penalty", 5.0), ("operator-norm", 5.0), ("alr", 5.0)]
)
def test_the_term_of_one_linear_output_is_the_length_of_its_weights(name, expected):
    data = dataclasses.replace(toy_data((3,)), domain=EVERYWHERE)
    method = method_on(name, ONE_OUTPUT, data, task="regression", target=0.1)
    _, term = method.output_and_term(ONE_OUTPUT, data.train.x)
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_the_jacobian_s_norm_is_estimated_without_bias():
    at, output = outputs_at(DIAGONAL, POINTS[:1].expand(20_000, 3))
    estimates = squared_frobenius_norm(output, at, projections=1, generator=generator())
    assert estimates.std().item() > 1  # each of them is random,
    error = 4 * estimates.std().item() / math.sqrt(len(estimates))
    assert estimates.mean().item() == pytest.approx(10.0, abs=error)  # their mean is not


def test_more_projections_are_closer_to_the_jacobian_s_norm():
    at, output = outputs_at(DIAGONAL, POINTS[:1].expand(500, 3))
    few, many = (squared_frobenius_norm(output, at, projections=n, generator=generator()) for n in (1, 16))
    assert many.std() < few.std() / 3


def test_the_jacobian_is_that_at_each_input():
    at, output = outputs_at(Squares(), POINTS[:, :1])
    squares = squared_frobenius_norm(output, at, projections=1, generator=generator())
    torch.testing.assert_close(squares, 4 * POINTS[:, 0].square())


def test_gradient_lengths_are_those_of_single_outputs():
    at, output = outputs_at(DIAGONAL, POINTS)
    lengths = gradient_lengths(output, at, generator())
    assert set(lengths.tolist()) == {1.0, 3.0}


def test_the_largest_gradient_is_penalised_alone_where_the_option_says_so():
    data = toy_data((3,))
    mean, largest = (
        term_of(method_on("gradient-penalty", DIAGONAL_OF_THREE, data, gradients=kind), DIAGONAL_OF_THREE, data)
        for kind in ("mean", "max")
    )
    assert largest == pytest.approx(3.0, rel=1e-5)
    assert 1 < mean < 3


def test_half_of_the_gradients_are_between_inputs():
    x = torch.eye(5)
    points = at_and_between(x, generator())
    assert torch.equal(points[:3], x[:3])
    assert not torch.equal(points[3:], x[3:])
    torch.testing.assert_close(points.sum(dim=1), torch.ones(5))  # on a segment between two unit vectors
    assert (points > 0).sum(dim=1).max() <= 2


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 0.2), (8, 1e-4)])
def test_the_operator_norm_is_the_spectral_norm_from_below(steps, tolerance):
    at, output = outputs_at(DIAGONAL, POINTS)
    norms = spectral_norms(output, at, steps=steps, generator=generator())
    assert norms.max().item() <= 3 * (1 + 1e-5)
    assert norms.median().item() == pytest.approx(3, rel=tolerance)


def test_the_operator_norm_is_that_at_each_input():
    at, output = outputs_at(Squares(), POINTS)
    norms = spectral_norms(output, at, steps=60, generator=generator())
    torch.testing.assert_close(norms, 2 * POINTS.amax(dim=1), rtol=1e-2, atol=0)


def test_a_network_that_ignores_its_input_has_operator_norm_zero():
    network = linear([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    at, output = outputs_at(network, POINTS)
    norms = spectral_norms(output, at, steps=2, generator=generator())
    norms.sum().backward()
    assert not norms.any()
    assert torch.isfinite(network.weight.grad).all()


def test_adversarial_quotients_are_at_most_the_norm_and_close_to_it():
    data = dataclasses.replace(toy_data((3,)), domain=EVERYWHERE)
    term = term_of(method_on("alr", DIAGONAL_OF_THREE, data, power_steps=6), DIAGONAL_OF_THREE, data)
    assert 2.99 < term <= 3 * (1 + 1e-5)


def test_adversarial_partners_stay_in_ball_and_box():
    base = DIAGONAL(POINTS).detach()
    partners = adversarial_partners(
        DIAGONAL, POINTS, base, epsilon=0.3, steps=1, domain=Box(0.0, 1.0), generator=generator()
    )
    lengths = (partners - POINTS).norm(dim=1)
    assert Box(0.0, 1.0).contains(partners)
    assert lengths.max() <= 0.3 * (1 + 1e-5)
    assert 0 < lengths.min() < 0.15
    assert not partners.requires_grad


def test_the_laplacian_of_two_points_is_their_squared_quotient():
    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    part = Split(x, torch.tensor([0, 1]))
    data = dataclasses.replace(toy_data((3,)), train=part)
    network = Squares(2.0)
    method = method_on("laplacian", network, data, neighbours=1)
    assert term_of(method, network, data) == pytest.approx(((2 * 0.25) / 0.5) ** 2, rel=1e-5)


def test_neighbours_are_the_nearest_other_inputs():
    x = torch.tensor([0.0, 1.0, 3.0, 3.5]).reshape(4, 1, 1)
    assert nearest_neighbours(x, 2, generator()).tolist() == [[1, 2], [0, 2], [3, 1], [2, 1]]


def test_neighbours_are_searched_among_some_inputs_only():
    x = torch.rand(50, 3, generator=generator())
    found = nearest_neighbours(x, 3, generator(1), among=8)
    searched = found.unique()
    assert len(searched) <= 8
    assert not (found == torch.arange(50).unsqueeze(1)).any()  # none is its own neighbour
    distances = torch.cdist(x, x[searched])
    distances[distances < 1e-3] = torch.inf
    torch.testing.assert_close((x[found] - x.unsqueeze(1)).norm(dim=2), distances.sort(dim=1).values[:, :3])


def test_equal_inputs_are_neighbours_with_no_energy():
    x = torch.tensor([[0.5, 0.5, 0.5]]).expand(4, 3)
    data = dataclasses.replace(toy_data((3,)), train=Split(x, torch.tensor([0, 1, 0, 1])))
    network = Squares()
    method = method_on("laplacian", network, data, neighbours=2)
    method.before_step(0, torch.arange(4))
    loss = method.losses(network, *data.train).total
    loss.backward()
    assert term_of(method, network, data) == 0
    assert torch.isfinite(network.factor.grad)


def test_more_neighbours_than_inputs_are_refused():
    with pytest.raises(ConfigError, match=re.escape("neighbours: expected fewer than the 60 training inputs, got 60")):
        method_on("laplacian", nn.Linear(6, 3), toy_data(), neighbours=60)


ON_INPUTS = ["jacobian", "gradient-penalty", "operator-norm", "alr", "laplacian"]


@pytest.mark.parametrize("name", ON_INPUTS)
def test_the_loss_and_the_statistics_of_a_batch_norm_are_those_of_the_batch_alone(name):
    data = toy_data((3,))
    network, plain = (seeded(lambda: nn.Sequential(BatchNormModel(), nn.Linear(2, 3))) for _ in range(2))
    method = method_on(name, network, data)
    method.before_step(0, torch.arange(len(data.train.x)))
    _, fit, output = method.losses(network, *data.train)
    expected = method_on("plain", plain, data).losses(plain, *data.train)
    assert fit.item() == expected.fit.item()
    assert torch.equal(output, expected.output)
    for name_of, buffer in plain.named_buffers():
        assert torch.equal(network.get_buffer(name_of), buffer), name_of


@pytest.mark.parametrize("name", ON_INPUTS)
def test_weights_without_a_penalty_get_the_gradient_of_the_loss(name):
    data = toy_data()
    network = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))
    method = method_on(name, network, data, lam=0.0, target=None)
    method.before_step(0, torch.arange(len(data.train.x)))
    found = torch.autograd.grad(method.losses(network, *data.train).total, list(network.parameters()))
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(network(data.train.x), data.train.y), network.parameters()
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


class Steps(nn.Module):
    """A layer that has no gradient."""

    def forward(self, x):
        return x.detach().round()


@pytest.mark.parametrize("name", ["jacobian", "gradient-penalty", "operator-norm", "alr"])
def test_a_model_without_gradients_is_refused_in_one_line(name):
    network = nn.Sequential(Steps(), nn.Linear(6, 3))
    with pytest.raises(ConfigError, match=f"method: {name} needs a model that autograd can differentiate") as error:
        method_on(name, network, toy_data())
    assert "(its output does not depend differentiably on its input)" in str(error.value)
    assert "\n" not in str(error.value)


class OnceOnly(torch.autograd.Function):
    """The identity, whose gradient has none."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_, gradient):
        return gradient * 1.0


class Once(nn.Module):
    def forward(self, x):
        return OnceOnly.apply(x)


def test_a_model_that_can_be_differentiated_once_is_enough_for_alr_alone():
    network = nn.Sequential(nn.Linear(6, 6), Once(), nn.Linear(6, 3))
    method_on("alr", network, toy_data())
    with pytest.raises(ConfigError, match="jacobian needs a model that autograd can differentiate twice"):
        method_on("jacobian", network, toy_data())
