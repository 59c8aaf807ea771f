"""The lower end is never above the constant, whatever the arithmetic of the model; and the witness shows it."""

import copy
import math

import pytest
import torch
from torch import nn

from cheaplip import Ball, Box, bracket
from cheaplip.lipschitz import largest_quotient
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.search.arithmetic import Arithmetic
from cheaplip.quotient import exact_quotient
from networks import mlp

QUICK = {"steps": 4, "seconds": 2.0, "method": "norms"}
WEIGHT = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 1.0]])  # in float32; its norm is 3


class Linear(nn.Module):
    """x ↦ W x, as users write it."""

    def __init__(self, before=lambda x: x, after=lambda y: y, buffer=True):
        super().__init__()
        self.before, self.after, self.weight = before, after, WEIGHT
        if buffer:
            del self.weight
            self.register_buffer("weight", WEIGHT.clone())

    def forward(self, x):
        return self.after(self.before(x) @ self.weight.T)


def function(x):
    return x @ WEIGHT.T


MODELS = {
    "a function with float32 tensors": function,
    "a function that cancels": lambda x: (function(x) + 1e10) - 1e10,
    "a function that converts to float32": lambda x: function(x.float()),
    "a function that converts to float16": lambda x: function(x.half().to(x.dtype)),
    "a function that cancels in float32": lambda x: (function(x.float()) + 1e8) - 1e8,
    "a tensor that is no buffer": Linear(buffer=False),
    "conversion to float32 inside": Linear(before=lambda x: x.float().to(x.dtype), buffer=False),
    "conversion to bfloat16 inside": Linear(before=lambda x: x.bfloat16().to(x.dtype)),
    "cancellation": Linear(after=lambda y: y + 1e10 - 1e10),
    "cancellation in a sum": Linear(after=lambda y: torch.stack([y, 1e9 + 0 * y, -1e9 + 0 * y]).sum(0)),
    "cancellation of the function erf": Linear(
        after=lambda y: (1 + torch.erf(y * 1e-9)) * 1e9 * math.sqrt(math.pi) / 2
    ),
    "cancellation before the weights": Linear(before=lambda x: (x + 1e9) - 1e9),
    "double precision by hand": Linear(before=lambda x: x.double().float().to(x.dtype)),
}


@pytest.mark.parametrize("domain", [None, Box(0.0, 1.0)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_lower_end_is_near_the_constant_and_not_above(name, domain):
    model = MODELS[name]
    found = largest_quotient(model, torch.rand(64, 3), domain=domain, size=16, steps=10, seconds=5.0)
    assert 2.8 <= found.value <= 3 * (1 + 1e-12)
    u, v = found.witness
    assert u.dtype == v.dtype == torch.float64
    assert (Box() if domain is None else domain).contains(torch.stack([u, v]))
    assert float((function_in_float64(u) - function_in_float64(v)).norm() / (u - v).norm()) >= found.value
    assert torch.equal(WEIGHT, torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 1.0]]))


def function_in_float64(x):
    return x @ WEIGHT.double().T


@pytest.mark.parametrize("norm", [1, 2, math.inf], ids=str)
@pytest.mark.parametrize("name", ["cancellation", "conversion to float32 inside", "a function that cancels in float32"])
def test_no_quotient_of_rounding_in_any_norm(name, norm):
    b = bracket(MODELS[name], Box(-1.0, 1.0), (3,), norm, **QUICK)
    truth = float(torch.linalg.matrix_norm(WEIGHT.double(), norm))
    assert 0.8 * truth <= b.lower <= truth * (1 + 1e-12)
    assert b.lower <= b.upper


@pytest.mark.parametrize("norm", [1, 2, math.inf], ids=str)
def test_one_number_for_each_input(norm):
    row = torch.tensor([3.0, 0.0, -4.0])
    truth = float(torch.linalg.vector_norm(row, {1: math.inf, 2: 2, math.inf: 1}[norm]))
    b = bracket(lambda x: 1e6 + x @ row, Box(-1.0, 1.0), (3,), norm, **QUICK)
    assert 0.8 * truth <= b.lower <= truth * (1 + 1e-12)


def test_the_kind_of_the_lower_end():
    assert bracket(mlp(3, 6, 2).eval(), shape=(3,), **QUICK).lower_kind == "proved"
    assert bracket(function, Box(0.0, 1.0), (3,), **QUICK).lower_kind == "estimate"
    assert Bracket(0.0, (WEIGHT, WEIGHT), 1.0, "norms", 2.0, 0.0).lower_kind == "estimate"


@pytest.mark.parametrize("seed", range(6))
def test_a_float32_model_is_evaluated_in_float64(seed):
    torch.manual_seed(seed)
    model = mlp(4, 16, 16, 3, activation=[nn.ReLU, nn.Tanh, nn.SiLU][seed % 3]).eval()
    domain = [None, Box(0.1, 0.7), Ball(torch.full((4,), 0.3), 1e-3)][seed // 2]
    b = bracket(model, domain, (4,), **QUICK)
    u, v = b.witness
    exact = copy.deepcopy(model).double()
    quotient = exact_quotient(exact(u[None]), exact(v[None]), u[None], v[None])
    assert 0 < b.lower <= float(quotient)
    assert domain is None or domain.contains(torch.stack([u, v]))


@pytest.mark.parametrize("norm", [1, 2, math.inf], ids=str)
def test_the_witness_lies_inside_a_box_whose_borders_float32_does_not_have(norm):
    box = Box(0.1, 0.7)
    b = bracket(Linear(), box, (3,), norm, **QUICK)
    assert box.contains(torch.stack(b.witness))


WIDE = {
    "numbers": lambda reach: Box(-reach, reach),
    "tensors": lambda reach: Box(*(torch.full((3,), r, dtype=torch.float64) for r in (-reach, reach))),
    "ball": lambda reach: Ball(torch.zeros(3), reach),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reach", [1e200, 1.7e308], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", WIDE)
def test_domains_as_wide_as_float64(kind, dtype, reach):
    domain = WIDE[kind](reach)
    b = bracket(Linear().to(dtype), domain, (3,), **QUICK)
    assert 2.8 <= b.lower <= 3 * (1 + 1e-12)
    assert 3 <= b.upper < 3.1
    assert all(bool(end.isfinite().all()) for end in b.witness)
    assert domain.contains(torch.stack(b.witness))
    assert domain.project(torch.ones(1, 3, dtype=dtype)).tolist() == [[1.0] * 3]


def test_inputs_whose_distances_overflow_give_a_weak_but_true_lower_end():
    x = 1e300 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    b = bracket(Linear().double(), x=x, **QUICK)
    assert 0 <= b.lower <= 3 * (1 + 1e-12)
    assert all(bool(end.isfinite().all()) for end in b.witness)


def test_a_constant_model_has_quotient_zero():
    b = bracket(lambda x: 0 * x + 1e10, Box(0.0, 1.0), (3,), **QUICK)
    assert (b.lower, b.lower_kind) == (0, "proved")


def test_a_contradiction_is_an_error_and_an_estimate_above_the_bound_is_replaced(monkeypatch):
    from cheaplip.lipschitz import Lower
    from cheaplip.lipschitz.bounds.best import Upper

    model = Linear()
    module = __import__("cheaplip.lipschitz.bracket", fromlist=["bracket"])
    pair = torch.zeros(3).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    monkeypatch.setattr(module, "largest_quotient", lambda *_, **__: Lower(9.0, pair, "estimate"))
    b = bracket(model, shape=(3,), **QUICK)
    assert (b.lower, b.lower_kind) == (pytest.approx(3.0), "proved")
    monkeypatch.setattr(module, "upper_bound", lambda *_, **__: Upper(2.9, "norms"))
    with pytest.raises(RuntimeError, match=r"internal error: .* please report the model"):
        bracket(model, shape=(3,), **QUICK)


def test_what_a_model_writes_into_its_own_tensors_stays_as_it_was():
    state = torch.zeros(3)

    def counting(x):
        state.add_(1.0)
        return x * state

    with Arithmetic(promote=True) as arithmetic:
        first = counting(torch.ones(1, 3, dtype=torch.float64))
        second = counting(torch.ones(1, 3, dtype=torch.float64))
    assert arithmetic.narrower
    assert first.tolist() == [[1.0] * 3]
    assert second.tolist() == [[2.0] * 3]
    assert state.tolist() == [0.0] * 3


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
@pytest.mark.parametrize("norm", [1, 2, math.inf], ids=str)
def test_quotients_of_huge_and_tiny_differences(scale, norm):
    u = torch.tensor([[3.0, -4.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    for rise in (1e-3, 1.0, 1e3):
        found = exact_quotient(scale * rise * u, scale * rise * v, scale * u, scale * v, norm_in=norm, norm_out=norm)
        assert found.tolist() == pytest.approx([rise, 0.0, rise], rel=1e-12)


def test_a_difference_that_overflows_is_no_obstacle():
    big = torch.tensor([[1.7e308], [-1.7e308]], dtype=torch.float64)
    assert exact_quotient(big[:1] / 4, big[1:] / 4, big[:1], big[1:]).tolist() == pytest.approx([0.25], rel=1e-12)
    assert exact_quotient(big[:1], big[1:], big[:1] / 4, big[1:] / 4).tolist() == pytest.approx([4.0], rel=1e-12)
