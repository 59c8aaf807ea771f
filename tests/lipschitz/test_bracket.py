"""The bracket: lower ≤ exact ≤ upper, over models, norms and domains; bad input is refused clearly."""

import copy
import functools
import math
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations

import cheaplip
from cheaplip import Ball, Box, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import BOUNDS, upper_bound
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.lipschitz.bounds.ranges import slope_ranges
from cheaplip.lipschitz.bracket import pairwise
from networks import mlp

NORMS = [1, 2, math.inf]
norms = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"norm {norm:g}")
QUICK = {"steps": 5, "seconds": 0.5}


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def quotients(model, domain, shape, norm, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u, v = (domain.sample(300, shape, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.cat([v[:150], u[150:] + 1e-3 * (v[150:] - u[150:])])
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        rise = (exact(u) - exact(v)).flatten(1).norm(norm, dim=1)
    return rise / (u - v).flatten(1).norm(norm, dim=1)


@norms
def test_affine_maps_have_both_ends_at_the_operator_norm(norm):
    model = seeded(lambda: nn.Linear(6, 4))
    b = bracket(model, shape=(6,), norm=norm, steps=30)
    truth = float(torch.linalg.matrix_norm(model.weight.detach().double(), norm))
    assert b.lower <= truth <= b.upper
    assert b.upper == pytest.approx(truth, rel=1e-9)
    assert b.lower >= 0.99 * truth
    assert b.gap == b.upper / b.lower


def test_absolute_value_from_two_relus_is_exact():
    model = mlp(1, 2, 1)
    with torch.no_grad():
        for p, value in zip(model.parameters(), ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0]), strict=True):
            p.copy_(torch.tensor(value))
    b = bracket(model.eval(), shape=(1,), **QUICK)
    assert b.method == "exact"
    assert b.lower <= 1 <= b.upper
    assert b.gap == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_one_dimensional_relu_networks_between_their_breakpoints(seed):
    model = seeded(lambda: mlp(1, 12, 1), seed)
    first, second = model[0], model[2]
    with torch.no_grad():
        kinks = (-first.bias / first.weight[:, 0]).double().sort().values
        middles = torch.cat([kinks[:1] - 1, (kinks[1:] + kinks[:-1]) / 2, kinks[-1:] + 1])
        on = (middles[:, None] * first.weight.double().T + first.bias.double() > 0).double()
        truth = float((on @ (second.weight[0].double() * first.weight[:, 0].double())).abs().max())
    b = bracket(model, shape=(1,), seconds=1.0)
    assert b.lower <= truth * (1 + 1e-12)
    assert truth <= b.upper
    assert b.lower >= 0.99 * truth
    assert upper_bound(read(model, (1,)), 2, None, "lipsdp").value >= truth


def test_orthogonal_networks_have_constant_one():
    model = seeded(lambda: nn.Sequential(*[parametrizations.orthogonal(nn.Linear(5, 5)) for _ in range(3)]))
    b = bracket(model, shape=(5,), **QUICK)
    assert b.lower == pytest.approx(1, abs=1e-5)
    assert b.upper == pytest.approx(1, abs=1e-5)


def residual(width):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

        def forward(self, x):
            return F.silu(x + self.inner(x))

    return Residual()


MODELS = {
    "mlp": ((3,), lambda: mlp(3, 16, 8, 4)),
    "gelu": ((3,), lambda: mlp(3, 16, 4, activation=nn.GELU)),
    "sigmoid at the end": ((3,), lambda: nn.Sequential(mlp(3, 16, 4), nn.Sigmoid())),
    "softmax at the end": ((3,), lambda: nn.Sequential(mlp(3, 16, 4), nn.Softmax(dim=1))),
    "residual": ((4,), lambda: nn.Sequential(residual(4), residual(4), nn.Linear(4, 2))),
    "cnn": (
        (1, 8, 8),
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 3, stride=2), nn.ELU(), nn.Flatten(), nn.Linear(4, 3)),
        ),
    ),
    "average pooling": (
        (2, 6),
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Softplus(), nn.AvgPool1d(2, 1), nn.Flatten(), nn.Linear(12, 2)),
    ),
    "no nonlinearity": ((3,), lambda: nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 2))),
    "constant": ((3,), lambda: nn.Sequential(nn.Linear(3, 2), nn.Hardtanh(100.0, 101.0))),
}
DOMAINS = {
    "box": lambda shape: Box(0.0, 1.0),
    "ball": lambda shape: Ball(torch.full(shape, 0.4), 0.1),
    "small ball": lambda shape: Ball(torch.full(shape, 0.4), 1e-4),
}


@functools.cache
def made(name):
    """Model, one input's shape, and chain."""
    shape, make = MODELS[name]
    model = seeded(make)
    return model, shape, read(model, shape)


@norms
@pytest.mark.parametrize("where", [None, *DOMAINS], ids=str)
@pytest.mark.parametrize("name", MODELS, scope="module")
def test_no_quotient_is_above_any_upper_bound(name, where, norm):
    model, shape, chain = made(name)
    domain = None if where is None else DOMAINS[where](shape)
    largest = float(quotients(model, Box(-2.0, 2.0) if domain is None else domain, shape, norm).max())
    methods = set(BOUNDS) - {"exact", "absolute"} if norm == 2 else ("absolute", "norms", "autolip")
    for method in methods:
        assert largest <= upper_bound(chain, norm, domain, method, seconds=0.05).value * (1 + 1e-9), method


@pytest.mark.parametrize("where", [None, *DOMAINS], ids=str)
@pytest.mark.parametrize("name", ["mlp", "residual", "cnn", "softmax at the end", "constant"])
def test_both_ends_of_every_kind_of_model(name, where):
    shape, make = MODELS[name]
    model = seeded(make)
    domain = None if where is None else DOMAINS[where](shape)
    b = bracket(model, domain, shape, **QUICK)
    assert 0 <= b.lower <= b.upper < math.inf
    assert b.method in BOUNDS
    u, v = b.witness
    assert u.shape == v.shape == shape
    assert u.dtype == v.dtype == torch.float64
    if domain is not None:
        assert domain.contains(torch.stack([u, v]))
    exact = copy.deepcopy(model).double()
    quotient = float((exact(u[None]) - exact(v[None])).detach().norm() / (u - v).norm())
    assert 0.999 * quotient <= b.lower <= quotient


def test_the_bound_is_local_in_a_ball():
    model = seeded(lambda: mlp(4, 32, 16, 3))
    everywhere = bracket(model, shape=(4,), steps=5, seconds=3.0)
    near = bracket(model, Ball(torch.full((4,), 0.3), 1e-5), steps=5, seconds=3.0)
    assert near.upper < 0.9 * everywhere.upper
    assert near.gap < 1.001


@pytest.mark.parametrize("where", DOMAINS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "no nonlinearity"])
def test_slope_ranges_hold_what_is_sampled(name, where):
    _, shape, chain = made(name)
    domain = DOMAINS[where](shape)
    ranges = slope_ranges(chain, domain)
    x = domain.sample(200, shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = [x]
    for at, link in enumerate(chain.links):
        values.append(link.operation(*(values[i] for i in link.arguments)).detach())
        if at in ranges:
            z = values[link.arguments[0]].detach().requires_grad_()
            (slopes,) = torch.autograd.grad(link.operation(z).sum(), z)
            low, high = ranges[at]
            assert bool((low - 1e-12 <= slopes).all() & (slopes <= high + 1e-12).all())
    assert ranges


def test_methods_are_ordered():
    model = seeded(lambda: mlp(4, 20, 20, 3))
    chain = read(model, (4,))
    found = {name: upper_bound(chain, 2, None, name).value for name in ("lipsdp", "closed-form", "norms")}
    assert found["lipsdp"] <= found["closed-form"] * (1 + 1e-9)
    assert found["closed-form"] <= found["norms"] * (1 + 1e-9)
    assert bracket(model, shape=(4,), method="norms", **QUICK).upper == pytest.approx(found["norms"])


def test_pairwise_bounds_hold_and_beat_the_whole():
    model = seeded(lambda: mlp(3, 16, 4))
    bounds = pairwise(model, shape=(3,))
    assert bounds.shape == (4, 4)
    assert bounds.dtype == torch.float64
    assert torch.equal(bounds, bounds.T)
    assert bool((bounds.diagonal() == 0).all())
    whole = bracket(model, shape=(3,), **QUICK).upper
    assert bool((bounds <= math.sqrt(2) * whole * (1 + 1e-6)).all())
    for i in range(4):
        for j in range(i):
            row = nn.Sequential(model, nn.Linear(4, 1))
            with torch.no_grad():
                row[1].weight.copy_(torch.eye(4)[i] - torch.eye(4)[j])
            assert float(quotients(row, Box(-2.0, 2.0), (3,), 2).max()) <= float(bounds[i, j])


def test_pairwise_bounds_of_a_cnn():
    shape, make = MODELS["cnn"]
    model = seeded(make)
    bounds = pairwise(model, Box(0.0, 1.0), shape)
    row = nn.Sequential(model, nn.Linear(3, 1))
    with torch.no_grad():
        row[1].weight.copy_(torch.tensor([[1.0, -1.0, 0.0]]))
    assert float(quotients(row, Box(0.0, 1.0), shape, 2).max()) <= float(bounds[0, 1]) < math.inf


class Cumulated(nn.Module):
    def forward(self, x):
        return torch.cumprod(x, 1)


class Squared(nn.Module):
    def forward(self, x):
        return x * x


REASONS = {
    Cumulated: "layer '1' (Cumulated, aten.cumprod) is not supported",
    Squared: "no Lipschitz constant in norm 2 is known for layer '1' (the product of two values",
}


@pytest.mark.parametrize("layer", REASONS)
def test_an_unknown_layer_gives_an_infinite_bound_and_the_reason(layer):
    b = bracket(nn.Sequential(nn.Linear(2, 2), layer()).eval(), shape=(2,), **QUICK)
    assert b.upper == math.inf
    assert b.gap == math.inf
    assert b.method == "none"
    assert b.reason.startswith(REASONS[layer])
    assert b.lower > 0


def test_a_plain_function_gets_a_lower_bound_alone():
    b = bracket(torch.sin, Box(-1.0, 1.0), (1,), **QUICK)
    assert 0.99 <= b.lower <= 1
    assert (b.upper, b.reason) == (math.inf, "a plain function (sin) cannot be read: pass a module")


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2)).train()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    bracket(model, shape=(3,), **QUICK)
    assert all(module.training for module in model)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_same_seed_gives_the_same_bracket():
    model = seeded(lambda: mlp(3, 8, 2))
    one, other = (bracket(model, shape=(3,), steps=5, seconds=None) for _ in range(2))
    assert (one.lower, one.upper) == (other.lower, other.upper)
    assert all(torch.equal(a, b) for a, b in zip(one.witness, other.witness, strict=True))


def test_progress_is_reported():
    seen = []
    bracket(nn.Linear(2, 2).eval(), shape=(2,), steps=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)


def broken():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    return model


class Nothing(nn.Module):
    def forward(self, x):
        return x[:, :0]


SMALL = nn.Linear(2, 2).eval()
BAD = {
    "no shape": (SMALL, {}, ValueError, "shape: expected the shape of one input, such as (1, 28, 28)"),
    "another shape": (SMALL, {"shape": (3,)}, ValueError, "the model cannot take inputs of shape (B, 3)"),
    "shapes differ": (
        SMALL,
        {"shape": (2,), "x": torch.rand(5, 3)},
        ValueError,
        "expected one shape of inputs, got (2,)",
    ),
    "empty shape": (SMALL, {"shape": (0,)}, ValueError, "shape: expected positive whole numbers, got (0,)"),
    "domain of another shape": (
        *(SMALL, {"shape": (2,), "domain": Box(torch.zeros(3), 1.0)}),
        *(ValueError, "box.low of shape (3,) does not broadcast to an input of shape (2,)"),
    ),
    "inputs outside the domain": (
        *(SMALL, {"x": 3 + torch.rand(5, 2), "domain": Box(0.0, 1.0)}, ValueError, "outside the domain Box(0, 1)"),
    ),
    "training mode": (
        *(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), {"shape": (2,)}),
        *(ValueError, "layer '1' (BatchNorm1d) is in training mode"),
    ),
    "another device": (
        *(SMALL, {"x": torch.rand(5, 2, device="meta")}),
        *(ValueError, "x is on meta, the model on cpu: expected one device"),
    ),
    "model without values": (
        *(nn.Linear(2, 2, device="meta"), {"shape": (2,)}),
        *(ValueError, "model: expected weights with values, got tensors on the meta device: load them first"),
    ),
    "two devices": (
        *(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), {"shape": (2,)}),
        *(ValueError, "model: expected one device, got weights on cpu and meta: move it with .to(device)"),
    ),
    "ball of another shape": (
        *(SMALL, {"shape": (2,), "domain": Ball(torch.zeros(3), 1.0)}),
        *(ValueError, "expected one shape of inputs, got (2,) and (3,) from shape, x and domain"),
    ),
    "domain of another kind": (
        *(SMALL, {"shape": (2,), "domain": (0.0, 1.0)}),
        *(TypeError, "domain: expected a Box, a Ball or None, got tuple: try Box(0.0, 1.0)"),
    ),
    "shape of another kind": (
        *(SMALL, {"shape": 2}),
        *(TypeError, "shape: expected the shape of one input, such as (1, 28, 28), got 2"),
    ),
    "inputs of another kind": (
        *(SMALL, {"x": [[1.0, 2.0]]}, TypeError, "x: expected floating-point inputs, got list"),
    ),
    "no inputs": (SMALL, {"x": torch.zeros(0, 2)}, ValueError, "x: expected at least one input, got shape (0, 2)"),
    "NaN inputs": (
        *(SMALL, {"x": torch.full((5, 2), math.nan)}),
        *(ValueError, "x: expected finite inputs, got NaN or Inf"),
    ),
    "batch norm without statistics": (
        *(nn.BatchNorm1d(2, track_running_stats=False).eval(), {"shape": (2,)}),
        *(ValueError, "layer 'model' (BatchNorm1d) has no running statistics, where its output depends on the whole"),
    ),
    "integer model": (
        *(nn.Embedding(3, 2).eval(), {"shape": (2,)}),
        *(ValueError, "the model cannot take inputs of shape (B, 2): "),
    ),
    "several outputs": (
        *(nn.LSTM(2, 2).eval(), {"shape": (3, 2)}),
        *(ValueError, "expected a model with one tensor out, at least one number for each input, got tuple"),
    ),
    "integer inputs": (
        *(SMALL, {"x": torch.ones(5, 2, dtype=torch.long)}),
        *(TypeError, "x: expected floating-point inputs, got torch.int64"),
    ),
    "no outputs": (
        *(Nothing(), {"shape": (2,)}),
        *(ValueError, "at least one number for each input, got shape (2, 0)"),
    ),
    "NaN weights": (broken(), {"shape": (2,)}, ValueError, "weight 'weight': expected finite numbers, got NaN or Inf"),
    "half precision": (
        *(
            nn.Linear(2, 2).half(),
            {"shape": (2,)},
            TypeError,
            "expected weights in float32 or float64, got torch.float16",
        ),
    ),
    "norm": (SMALL, {"shape": (2,), "norm": 3}, ValueError, "norm: expected 1, 2 or inf, got 3"),
    "method": (SMALL, {"shape": (2,), "method": "sdp"}, ValueError, "method: expected one of exact, lipsdp"),
    "method in another norm": (
        *(SMALL, {"shape": (2,), "method": "lipsdp", "norm": 1}),
        *(ValueError, "method: expected one of absolute, norms, autolip in norm 1, got 'lipsdp'"),
    ),
    "negative steps": (SMALL, {"shape": (2,), "steps": -1}, ValueError, "steps, seconds: expected 0 or more"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    model, options, kind, message = BAD[name]
    with pytest.raises(kind, match=re.escape(message)):
        bracket(model, **options)


def test_only_modules_have_pairwise_bounds():
    with pytest.raises(TypeError, match="model: expected a module, got builtin_function_or_method: a plain function"):
        pairwise(torch.sin, shape=(2,))


def test_an_empty_box_is_refused():
    with pytest.raises(ValueError, match="expected low < high everywhere in the box"):
        bracket(SMALL, Box(1.0, 0.0), (2,))


FIRST_IMPORTS = """
import sys
import torch

def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "cheaplip"]:
        del sys.modules[name]

for code in (
    "import cheaplip; assert callable(cheaplip.bracket)",
    "import cheaplip.lipschitz.search.lower; assert callable(cheaplip.bracket)",
    "from cheaplip.lipschitz import largest_quotient; import cheaplip; assert callable(cheaplip.bracket)",
    "from cheaplip.lipschitz.search import lower; assert lower.largest_quotient",
    "from cheaplip.lipschitz.search.lower import Lower; from cheaplip import bracket; assert callable(bracket)",
    "import cheaplip.lipschitz as package, types; assert isinstance(package.bracket, types.ModuleType)",
):
    forget()
    exec(compile(code, code, "exec"), {})
"""


def test_bracket_is_a_function_whatever_is_imported_first():
    subprocess.run([sys.executable, "-c", FIRST_IMPORTS], check=True)


def ratio_to_the_exact_constant(widths, seed, domain):
    """What the search finds without knowing the regions, over the constant."""
    pytest.importorskip("scipy")
    model = seeded(lambda: mlp(*widths), seed)
    exact = exact_constant(read(model, widths[:1]), domain).value
    b = bracket(model, domain, widths[:1], method="norms")
    assert b.lower <= exact * (1 + 1e-9)
    return b.lower / exact


@pytest.mark.parametrize("domain", [None, Box(-1.0, 1.0)], ids=str)
@pytest.mark.parametrize(("seed", "widths"), [(0, (2, 6, 5, 2)), (1, (3, 8, 1))])
def test_the_lower_end_comes_within_a_percent_of_the_exact_constant(seed, widths, domain):
    assert ratio_to_the_exact_constant(widths, seed, domain) >= 0.99


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("domain", [None, Box(-1.0, 1.0)], ids=str)
@pytest.mark.parametrize(
    "widths", [(1, 30, 30, 1), (2, 12, 12, 2), (3, 6, 6, 2), (3, 12, 1), (4, 8, 2), (5, 8, 3)], ids=str
)
def test_the_lower_end_comes_within_a_percent_on_many_networks(widths, domain):
    for seed in range(10):
        assert ratio_to_the_exact_constant(widths, seed, domain) >= 0.99, seed


def test_deep_networks_have_a_lower_end_too():
    model = seeded(lambda: mlp(*[20] * 60))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    b = bracket(model, shape=(20,), **QUICK)
    u, v = b.witness
    exact = copy.deepcopy(model).double()
    quotient = float((exact(u[None]) - exact(v[None])).detach().norm() / (u - v).norm())
    assert 0.5 * quotient <= b.lower <= quotient
    assert b.lower > 0


def test_seconds_limit_both_ends():
    model = seeded(lambda: mlp(60, 40, 40, 10))
    slow = bracket(model, shape=(60,), steps=0, seconds=None)
    quick = bracket(model, shape=(60,), seconds=0.0)
    assert quick.lower <= slow.upper < quick.upper < upper_bound(read(model, (60,)), 2, None, "norms").value


def test_the_core_exports_it():
    assert cheaplip.bracket is bracket
