"""Stored perturbations of training inputs: where they climb, where they stop, what they refuse."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import Ball, Box, Partners


def inputs(count=6, size=3):
    return 0.25 + 0.5 * torch.rand(count, size, generator=torch.Generator().manual_seed(0))


def climb(partners, x, index, slope, times=1):
    for _ in range(times):
        (partners(x[index], index) @ slope).sum().backward()


def test_a_perturbation_takes_one_step_along_the_gradient():
    x, index, slope = inputs(), torch.tensor([4, 1]), torch.tensor([3.0, 0.0, 4.0])
    partners = Partners(x, radius=0.2, step=0.5, ramp=0)
    climb(partners, x, index, slope)
    torch.testing.assert_close(partners.shift[index], (0.1 * slope / 5).expand(2, 3))
    assert not partners.shift[[0, 2, 3, 5]].any()


def test_a_perturbation_ends_on_the_ball_where_the_loss_is_largest():
    x, index, slope = inputs(), torch.arange(6), torch.tensor([3.0, 0.0, -4.0])
    partners = Partners(x, radius=0.2, ramp=0)
    climb(partners, x, index, slope, times=5)
    torch.testing.assert_close(partners.shift, (0.2 * slope / 5).expand(6, 3))
    torch.testing.assert_close(partners(x, index), x + partners.shift)


@pytest.mark.parametrize("domain", [Box(0.2, 0.8), Ball(torch.full((3,), 0.5), 0.45)], ids=["box", "ball"])
def test_perturbed_inputs_never_leave_the_domain(domain):
    x, index = inputs(), torch.arange(6)
    partners = Partners(x, radius=0.5, domain=domain, ramp=0)
    for times in range(4):
        climb(partners, x, index, torch.tensor([1.0, -2.0, 3.0]) * (-1) ** times)
        assert domain.contains(partners(x, index).detach())
    assert partners.shift.norm(dim=1).max() <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize("radius", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_a_smaller_radius_holds_at_once(radius):
    x, index = torch.rand(16, 3), torch.arange(16)
    partners = Partners(x, radius=0.4, step=10.0, ramp=0)
    partners(x, index).square().sum().backward()
    assert (partners(x, index) - x).norm(dim=1).max() > 0.3
    partners.radius = radius
    assert (partners(x, index) - x).norm(dim=1).max() <= 0.1 + 1e-6
    partners(x, index).square().sum().backward()
    assert partners.shift.norm(dim=1).max() <= 0.1 + 1e-6


def test_the_radius_grows_in_the_first_epochs():
    x, index = inputs(), torch.arange(6)
    partners = Partners(x, radius=0.4, step=10.0, ramp=2)
    reaches = []
    for _ in range(3):
        climb(partners, x, index, torch.ones(3))
        reaches.append(float(partners.shift.norm(dim=1).max()))
    assert reaches == pytest.approx([0.2, 0.4, 0.4])


def test_perturbations_move_in_each_so_many_calls_and_not_in_evaluation():
    x, index = inputs(), torch.arange(6)
    partners = Partners(x, radius=0.4, ramp=0, every=3)
    moved = []
    for _ in range(6):
        before = partners.shift.clone()
        z = x.requires_grad_()  # so that there is something to differentiate in every call
        climb(partners, z, index, torch.ones(3) + len(moved))
        moved.append(not torch.equal(partners.shift, before))
    assert moved == [True, False, False] * 2
    partners.eval()
    before = partners.shift.clone()
    climb(partners, z, index, -torch.ones(3))
    assert torch.equal(partners.shift, before)


def test_the_model_s_gradients_are_those_at_the_perturbed_inputs():
    x, index, y = inputs(), torch.arange(6), torch.tensor([0, 1, 0, 1, 0, 1])
    model, partners = nn.Linear(3, 2), Partners(x, radius=0.3, ramp=0)
    cross_entropy(model(partners(x, index)), y).backward()
    at = x + partners.shift
    model.zero_grad()
    cross_entropy(model(partners(x, index)), y).backward()
    found = model.weight.grad.clone()
    model.zero_grad()
    cross_entropy(model(at), y).backward()
    torch.testing.assert_close(found, model.weight.grad)


def test_half_precision_stores_almost_the_same():
    x, index = inputs(), torch.arange(6)
    exact, half = Partners(x, radius=0.3, ramp=0), Partners(x, radius=0.3, ramp=0, dtype=torch.float16)
    for partners in (exact, half):
        climb(partners, x, index, torch.tensor([1.0, 2.0, -1.0]), times=3)
    assert half.shift.dtype == torch.float16
    assert half(x, index).dtype == torch.float32
    torch.testing.assert_close(half.shift.float(), exact.shift, atol=2e-4, rtol=1e-3)


def test_a_graph_that_is_used_twice_moves_perturbations_once():
    x, index = inputs(), torch.arange(6)
    partners = Partners(x, radius=0.3, step=0.1, ramp=0)
    loss = (partners(x, index) @ torch.ones(3)).sum()
    loss.backward(retain_graph=True)
    once = partners.shift.clone()
    loss.backward()
    assert torch.equal(partners.shift, once)


def test_it_resumes_bit_for_bit():
    x, index = inputs(), torch.arange(6)
    one = Partners(x, radius=0.3, ramp=2, every=2)
    climb(one, x.requires_grad_(), index, torch.ones(3), times=3)
    other = Partners(x, radius=0.3, ramp=2, every=2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for partners in (one, other):
        climb(partners, x, index, torch.tensor([0.5, -1.0, 2.0]), times=3)
    assert torch.equal(one.shift, other.shift)
    assert one.reach == other.reach


def test_a_gradient_that_overflows_moves_nothing():
    x = inputs()
    partners = Partners(x, radius=0.3, ramp=0)
    partners.climb_(x[:2], torch.tensor([0, 1]), torch.tensor([[torch.inf, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    assert torch.equal(partners.shift[0], torch.zeros(3))
    assert partners.shift[1, 0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius: expected a positive number, got 0.0"),
        ({"radius": float("nan")}, "radius: expected a positive number, got nan"),
        (
            {"radius": 2.0, "domain": Box(0.0, 1.0)},
            "radius: expected at most 1.73205, the diagonal of the domain Box(0, 1)",
        ),
        ({"radius": 0.1, "domain": Box(0.4, 0.5)}, "x has values outside the domain Box(0.4, 0.5)"),
        ({"radius": 0.1, "step": -1.0}, "step: expected a positive number, got -1.0"),
        ({"radius": 0.1, "ramp": -1.0}, "ramp: expected a finite number of at least 0, got -1.0"),
        ({"radius": 0.1, "every": 0}, "every: expected 1 or more, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Partners(inputs(), **options)


def test_inputs_must_be_a_floating_point_tensor():
    with pytest.raises(TypeError, match=re.escape("expected all training inputs, a floating-point tensor (N, *input)")):
        Partners(torch.arange(6), radius=1.0)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (
            None,
            TypeError,
            "index: expected the rows of x in the training data, integers (B,), got NoneType: let your data",
        ),
        (torch.rand(2), TypeError, "got torch.float32"),
        (torch.tensor([0]), ValueError, "and B indices, got x of shape (2, 3) and index of shape (1,)"),
        (torch.tensor([0, 6]), ValueError, "index: expected rows from 0 to 5, got 0 to 6"),
        (torch.tensor([-1, 0]), ValueError, "index: expected rows from 0 to 5, got -1 to 0"),
        (torch.tensor([0, 2]), ValueError, "If the loader shuffles, let your data set return it beside the input"),
    ],
    ids=["missing", "floats", "shape", "too large", "negative", "shuffled"],
)
def test_an_index_that_names_other_inputs_is_refused(index, error, message):
    x = inputs()
    with pytest.raises(error, match=re.escape(message)):
        Partners(x, radius=0.1)(x[:2], index)
