"""Activations with odd options, and those that jump: no bound is below a quotient, or the layer is refused."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from cheaplip import Ball, Box, LipschitzBound, UnsupportedLayerError, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.ranges import enclose
from cheaplip.lipschitz.reading.operations import activations
from networks import Apply

mpmath = pytest.importorskip("mpmath")

ODD = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU(approximate="tanh"),
    "tanhshrink": nn.Tanhshrink,
    **{f"leaky relu {a:g}": lambda a=a: nn.LeakyReLU(a) for a in (-3.0, 0.0, 7.0, 1e30, math.inf, math.nan)},
    **{f"elu {a:g}": lambda a=a: nn.ELU(a) for a in (-2.0, 0.0, 5.0, 1e30, math.inf, math.nan)},
    **{f"celu {a:g}": lambda a=a: nn.CELU(a) for a in (-1.0, -0.3, 4.0, 1e-3, 1e30, 1e-310, math.inf, math.nan)},
    **{
        f"softplus {b:g} {t:g}": lambda b=b, t=t: nn.Softplus(b, t)
        for b, t in (
            *((1.0, 20.0), (1.0, 1.0), (1.0, 0.0), (1.0, -3.0), (1.0, 80.0), (1.0, math.inf), (1.0, -math.inf)),
            *((-2.0, 20.0), (-2.0, 1.0), (1e6, 20.0), (1e-3, 20.0), (0.0, 20.0), (math.nan, 20.0), (1.0, math.nan)),
        )
    },
    **{
        f"clamp {low:g} {high:g}": lambda low=low, high=high: Apply(lambda x: x.clamp(low, high))
        for low, high in ((-1.0, 1.0), (1.0, -1.0), (0.5, 0.5), (-math.inf, 0.0), (math.inf, 0.0), (0.0, math.nan))
    },
    **{
        kind.__name__: kind
        for kind in (nn.Hardshrink, nn.Softshrink, nn.RReLU, nn.LogSigmoid, nn.Mish, nn.Hardswish, nn.Hardsigmoid)
    },
    **{f"prelu {a:g}": lambda a=a: nn.PReLU(init=a).double() for a in (-3.0, 0.0, 1.0, 7.0, 1e30, math.inf, math.nan)},
    "softsign": nn.Softsign,
    "continuous threshold": lambda: nn.Threshold(0.1, 0.1),
    "threshold": lambda: nn.Threshold(0.1, 20.0),
}


REFUSED = {
    *("leaky relu inf", "leaky relu nan", "elu inf", "elu nan", "celu 1e-310", "celu inf", "celu nan"),
    *("softplus 0 20", "softplus nan 20", "softplus 1 nan", "clamp inf 0", "clamp 0 nan", "threshold"),
    *("Hardshrink", "prelu inf", "prelu nan"),
}


def grid(*near):
    """Inputs on all scales, dense about those where an activation may jump or bend."""
    sizes = torch.logspace(-12, 2, 400, dtype=torch.float64)
    around = [torch.zeros(1).double(), sizes, -sizes, torch.linspace(-30, 30, 20_001, dtype=torch.float64)]
    for at in near:
        around += [at + sizes.clamp_max(1), at - sizes.clamp_max(1)]
    return torch.cat(around).sort().values.unique()


def largest_quotient(function, x):
    """Between neighbours and between distant inputs, less what rounding may have added."""
    y = function(x)
    found = 0.0
    for step in (step for step in (1, 7, 301) if step < len(x)):
        rise, run = (y[step:] - y[:-step]).abs(), x[step:] - x[:-step]
        noise = 1e-14 * (y[step:].abs() + y[:-step].abs() + x[step:].abs() + x[:-step].abs())
        found = max(found, float(((rise - noise) / run).nan_to_num(0.0, posinf=0.0).max()))
    return found


@pytest.mark.parametrize("name", ODD)
def test_no_quotient_is_above_the_bound(name):
    layer = ODD[name]().eval()
    if name in REFUSED:
        with pytest.raises(UnsupportedLayerError, match=r"is not supported|does not compute|NaN or infinite"):
            read(nn.Sequential(layer), (1,))
        return
    chain = read(nn.Sequential(layer), (1,))
    near = [20.0, 1.0, -10.0, 2e-5, -0.5, 0.1] if "softplus" in name else [0.0, 1.0, -1.0]
    with torch.no_grad():
        x = grid(*near)
        for domain in (None, Box(-2.0, 3.0), Box(15.0, 25.0), Ball(torch.tensor([-0.5]), 0.25), Box(-40.0, -39.0)):
            inside = x
            if isinstance(domain, Ball):
                inside = x[(x >= -0.75) & (x <= -0.25)]
            elif domain is not None:
                inside = x[(x >= domain.low) & (x <= domain.high)]
            found = upper_bound(chain, 2, domain, seconds=0.2)
            assert largest_quotient(layer, inside) <= found.value * (1 + 1e-9), domain
            assert found.value < math.inf or found.reason


@pytest.mark.parametrize(("beta", "threshold"), [(1.0, 20.0), (1.0, 1.0), (-2.0, 3.0), (0.5, -1.0)])
def test_softplus_has_no_constant_where_it_jumps(beta, threshold):
    model = nn.Sequential(nn.Linear(1, 1), nn.Softplus(beta, threshold), nn.Linear(1, 1)).double().eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    switch = (threshold / beta - 0.5) / 0.5
    u, v = (torch.tensor([[switch + shift]], dtype=torch.float64) for shift in (1e-12, -1e-12))
    quotient = float(((model(u) - model(v)) / (u - v)).detach().abs())
    assert quotient > 100
    for domain in (None, Box(switch - 1, switch + 1)):
        b = bracket(model, domain, shape=(1,), steps=2, seconds=0.3)
        assert b.upper == math.inf
        assert b.reason.startswith("no Lipschitz constant in norm 2 is known for layer '1' (it falls by")
        assert "Softplus(threshold=80)" in b.reason
    for domain in (Box(switch - 5, switch - 1), Box(switch + 1, switch + 5)):
        b = bracket(model, domain, shape=(1,), steps=2, seconds=0.3)
        assert b.lower <= b.upper <= 0.25 * (1 + 1e-9)
    with pytest.raises(UnsupportedLayerError, match="it falls by"):
        LipschitzBound(model)


def test_softplus_with_a_high_threshold_is_smooth():
    model = nn.Sequential(nn.Linear(2, 3), nn.Softplus(threshold=80.0), nn.Linear(3, 1)).eval()
    b = bracket(model, shape=(2,), steps=2, seconds=0.3)
    assert b.lower <= b.upper < math.inf


def test_the_values_of_softplus_are_enclosed_on_both_sides_of_its_jump():
    for beta, threshold in ((1.0, 20.0), (1.0, 1.0), (-2.0, 3.0), (1.0, 80.0), (3.0, math.inf)):
        activation = activations.softplus(beta, threshold)
        at = min(threshold, 90.0) / beta
        x = at + torch.tensor([-1.0, -1e-13, 0.0, 1e-13, 1.0, -300.0, 300.0], dtype=torch.float64)
        low, high = activation.values_between(x, x)
        exact = F.softplus(x, beta, min(threshold, 300.0))  # torch's overflows
        assert bool((low <= exact).all() & (exact <= high).all())
        left, right = (torch.tensor([at + shift], dtype=torch.float64) for shift in (-0.5, 0.5))
        low, high = activation.values_between(left, right)
        inside = F.softplus(torch.linspace(float(left), float(right), 1001, dtype=torch.float64), beta, threshold)
        assert bool((low <= inside).all() & (inside <= high).all())


def test_celu_with_a_negative_alpha_is_bounded_on_a_box_alone():
    model = nn.Sequential(nn.Linear(1, 1), nn.CELU(-1.0)).double().eval()
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    b = bracket(model, shape=(1,), steps=2, seconds=0.3)
    assert b.upper == math.inf
    assert "its slopes grow without bound for negative inputs, as alpha = -1 is negative" in b.reason
    b = bracket(model, Box(-3.0, 1.0), shape=(1,), steps=2, seconds=0.3)
    assert math.exp(3) <= b.upper <= math.exp(3) * (1 + 1e-9)
    x = torch.tensor([[-300.0]], dtype=torch.float64)
    low, high = enclose(read(model, (1,)), x)
    with mpmath.workdps(60):
        assert low.item() <= 1 - mpmath.exp(300) <= high.item()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_enclosed_far_below_zero(approximate):
    x = torch.cat(
        [torch.linspace(-45, -3, 500, dtype=torch.float64), torch.tensor([-1e3, -1e10, -1e200], dtype=torch.float64)]
    )
    low, high = activations.gelu(approximate=approximate).values_between(x, x)
    with mpmath.workdps(60):
        for at, below, above in zip(x.tolist(), low.tolist(), high.tolist(), strict=True):
            z = mpmath.mpf(at)
            if approximate == "none":
                exact = z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2 if z > -1e4 else mpmath.mpf(0)
            else:
                inner = mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf(0.044715) * z**3)
                exact = z / (1 + mpmath.exp(-2 * inner)) if inner > -1e4 else mpmath.mpf(0)
            assert below <= exact <= above, at


class Padded(nn.Module):
    """A convolution of an image that is padded first."""

    def __init__(self, widths, mode, kernel):
        super().__init__()
        self.widths, self.mode = widths, mode
        self.convolution = nn.Conv1d(1, 2, kernel, bias=False).double()

    def forward(self, x):
        return self.convolution(F.pad(x, self.widths, mode=self.mode))


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate", "constant"])
@pytest.mark.parametrize("widths", [(-1, -1), (-4, 1), (-3, 2), (4, -2), (0, -2), (5, 5), (3, 4), (7, 9)], ids=str)
def test_padding_of_every_kind(mode, widths):
    torch.manual_seed(0)
    model, eye = Padded(widths, mode, 1).eval(), torch.eye(5, dtype=torch.float64)
    if mode == "circular" and widths[0] * widths[1] < 0:
        with pytest.raises(
            UnsupportedLayerError, match=f"crops one side and pads the other: {widths[0]} and {widths[1]}"
        ):
            read(model, (1, 5))
        return
    try:
        model(torch.zeros(1, 1, 5).double())
    except RuntimeError:  # more than torch can pad
        return
    chain = read(model, (1, 5))
    matrix = model(eye.unsqueeze(1)).flatten(1).T.detach()
    for norm in (1, 2, math.inf):
        bound = upper_bound(chain, norm, None, "norms").value
        assert float(torch.linalg.matrix_norm(matrix, norm)) <= bound * (1 + 1e-12)


def test_an_infinite_padding_is_refused():
    with pytest.raises(UnsupportedLayerError, match="it pads with inf"):
        read(nn.Sequential(nn.ConstantPad1d(1, math.inf), nn.Conv1d(1, 1, 2)), (1, 4))
