"""Models that are random, which are refused by name, and models with complex outputs, whose magnitudes count."""

import math
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

from cheaplip import CLIP, PairSet, ScaleFreeCLIP
from cheaplip.errors import ModelError
from cheaplip.quotient import distance, quotient, slope

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def clip(**options):
    return CLIP(PairSet(X, size=4), **options)


class Noisy(nn.Module):
    """Random in the modes that ``always`` and ``training`` say."""

    def __init__(self, kind, always):
        super().__init__()
        self.layer, self.kind, self.always = nn.Linear(6, 3), kind, always

    def forward(self, x):
        x = self.layer(x)
        if not (self.always or self.training):
            return x
        if self.kind == "dropout":
            return dropout(x, 0.5)
        if self.kind == "noise":
            return x + 0.1 * torch.randn_like(x)
        return x * torch.rand(())  # one number for the whole batch


class Inside(nn.Module):
    def __init__(self, always=True):
        super().__init__()
        self.first, self.body = nn.Linear(6, 6), Noisy("dropout", always)

    def forward(self, x):
        return self.body(self.first(x))


RANDOM = {
    "dropout": (Noisy("dropout", True), "layer 'model' (Noisy)"),
    "noise": (Noisy("noise", True), "layer 'model' (Noisy)"),
    "one factor for all": (Noisy("factor", True), "layer 'model' (Noisy)"),
    "in evaluation mode": (Noisy("noise", True).eval(), "layer 'model' (Noisy)"),
    "inside": (Inside(), "layer 'body' (Noisy)"),
    "a function": (lambda x: dropout(x, 0.5), "layer 'model' (function)"),
}


@pytest.mark.parametrize("form", ["own pass", "shared pass", "measuring", "scale-free"])
@pytest.mark.parametrize("case", RANDOM)
def test_a_random_model_is_named_and_not_measured(case, form):
    model, name = RANDOM[case]
    penalty = ScaleFreeCLIP(PairSet(X, size=4)) if form == "scale-free" else clip()
    call = penalty if form in ("own pass", "measuring") else lambda m: penalty.joint(m, X)
    if form == "measuring":
        penalty.eval()
    state = torch.get_rng_state()
    message = f"{name}: two calls on the same input differ in evaluation mode, so nothing can be measured: let it draw"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}"):
        call(model)
    assert torch.equal(state, torch.get_rng_state())
    assert penalty.largest == 0


@pytest.mark.parametrize("model", [Noisy("dropout", False), Noisy("noise", False), Inside(False)], ids=str)
def test_a_model_that_is_random_in_training_only_has_a_pass_for_the_pairs_alone(model):
    penalty = clip()
    with pytest.raises(
        ValueError, match=r"two calls on the same input differ, so it is random in its present mode: use"
    ):
        penalty.joint(model, X)
    penalty(model).backward()
    assert penalty.largest > 0
    assert penalty.largest <= 1.001 * torch.linalg.matrix_norm(
        model.body.layer.weight @ model.first.weight if isinstance(model, Inside) else model.layer.weight, 2
    )


def test_buffers_that_do_not_change_are_not_written():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    output = model(X)
    (output.square().sum() + clip()(model)).backward()  # batch norm's backward pass needs its buffers as they were
    assert model[0].weight.grad is not None


# Complex outputs


class Turned(nn.Module):
    """Multiplies by a complex number, after a real network."""

    def __init__(self, factor, dtype=torch.complex64):
        super().__init__()
        self.real, self.imaginary, self.dtype = nn.Parameter(torch.tensor(factor.real)), factor.imag, dtype

    def forward(self, x):
        return torch.complex(self.real * x, self.imaginary * x).to(self.dtype)


@pytest.mark.parametrize("norm", [1, 2, math.inf], ids=str)
@pytest.mark.parametrize("form", ["own pass", "shared pass"])
@pytest.mark.parametrize("factor", [10j, 3 + 4j, 2 + 0j, -6j])
def test_the_magnitudes_of_complex_outputs_count(factor, form, norm):
    model, penalty = Turned(factor), clip(lam=1.0, norm_in=norm, norm_out=norm)
    if form == "own pass":
        value = penalty(model)
    else:
        output, value = penalty.joint(model, X)
        assert output.dtype == torch.complex64
    assert penalty.largest == pytest.approx(abs(factor), rel=1e-4)
    value.backward()
    expected = factor.real / abs(factor)
    assert model.real.grad == pytest.approx(expected, abs=2e-3)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128], ids=str)
def test_complex_numbers_of_any_precision(dtype):
    u, v = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    fu, fv = torch.tensor([[3 + 4j, 0]]).to(dtype), torch.zeros(1, 2, dtype=dtype)
    assert quotient(fu, fv, u, v) == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize("norm", [1, 2, math.inf], ids=str)
def test_the_slope_of_a_complex_norm_is_its_gradient(norm):
    z = torch.tensor([[3 + 4j, 1j, -2 + 0j], [0.5j, 1 + 1j, 0.25]], requires_grad=True)
    (gradient,) = torch.autograd.grad(distance(z, norm).sum(), z)
    torch.testing.assert_close(slope(z.detach(), norm), gradient)


def test_scale_free_training_takes_complex_outputs():
    penalty = ScaleFreeCLIP(PairSet(X, size=4))
    z, rest = penalty.joint(Turned(3 + 4j), X)
    assert z.is_complex()
    (z.abs().square().mean() + rest).backward()
    assert math.isfinite(float(rest.detach()))
