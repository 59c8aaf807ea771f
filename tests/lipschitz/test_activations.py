"""Elementwise activations: the ranges of their slopes and values, on the whole line and between two inputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cheaplip.lipschitz.reading.operations import activations

ACTIVATIONS = {
    "relu": (activations.RELU, (0, 1)),
    "leaky relu": (activations.leaky_relu(0.1), (0.1, 1)),
    "abs": (activations.ABSOLUTE, (-1, 1)),
    "hardtanh": (activations.hardtanh(-1.0, 2.0), (0, 1)),
    "sigmoid": (activations.SIGMOID, (0, 0.25)),
    "tanh": (activations.TANH, (0, 1)),
    "softplus": (activations.softplus(1.5, 20.0), (0, 1)),
    "elu": (activations.elu(1.0), (0, 1)),
    "steep elu": (activations.elu(2.0), (0, 2)),
    "falling elu": (activations.elu(-0.5), (-0.5, 1)),
    "gelu": (activations.gelu(), (-0.128904145185171, 1.128904145185171)),
    "gelu by tanh": (activations.gelu(approximate="tanh"), (-0.128993068658772, 1.128993068658772)),
    "silu": (activations.SILU, (-0.099839320128867, 1.099839320128867)),
}
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


@every_activation
def test_slope_ranges_to_twelve_digits(name):
    activation, expected = ACTIVATIONS[name]
    assert activation.slopes == pytest.approx(expected, abs=1e-12)


@every_activation
def test_derivatives_fill_the_range_and_never_leave_it(name):
    activation, (low, high) = ACTIVATIONS[name]
    x = torch.cat([torch.linspace(-40, 40, 400_001, dtype=torch.float64), torch.tensor([-1e-9, 1e-9]).double()])
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(activation.function(x).sum(), x)
    assert float(slopes.min()) >= low - 1e-12
    assert float(slopes.max()) <= high + 1e-12
    assert float(slopes.min()) == pytest.approx(low, abs=1e-6)
    assert float(slopes.max()) == pytest.approx(high, abs=1e-6)


@every_activation
@settings(max_examples=60, deadline=None, derandomize=True)
@given(a=st.floats(-12, 12), b=st.floats(-12, 12))
def test_slopes_and_values_between_two_inputs(name, a, b):
    activation, _ = ACTIVATIONS[name]
    low, high = (torch.tensor([end], dtype=torch.float64) for end in sorted((a, b)))
    least, most = activation.slopes_between(low, high)
    below, above = activation.values_between(low, high)
    x = (low + (high - low) * torch.linspace(0, 1, 400, dtype=torch.float64)).clamp(low, high)
    y = activation.function(x)
    assert bool((below <= y).all() & (y <= above).all())
    apart = x.diff() > 1e-7
    slopes = (y.diff() / x.diff())[apart]
    assert bool((least - 1e-7 <= slopes).all() & (slopes <= most + 1e-7).all())
    assert (
        float(above - below) <= float(y.max() - y.min()) + 1e-2 * float(high - low) + 1e-12
    )  # and no wider than it is


def test_gelu_is_enclosed_where_its_computation_cancels():
    x = torch.linspace(-12, -3, 1000, dtype=torch.float64)
    exact = torch.tensor([at * math.erfc(-at / math.sqrt(2)) / 2 for at in x.tolist()], dtype=torch.float64)
    below, above = activations.gelu().values_between(x, x)
    assert bool((below < exact).all() & (exact < above).all())
    assert float((above - below).max()) < 1e-12
