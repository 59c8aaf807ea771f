"""No radius exceeds the exact distance to another class, computed in rational numbers from the stored weights."""

import itertools
from fractions import Fraction

import pytest
import torch
from torch import nn

from cheaplip import Certified, bracket, certified_radius
from cheaplip.lipschitz.bracket import pairwise
from networks import mlp

EXTREME = [1e-30, 1e-6, 1.0, 1.0, 1.0, 1e6, 1e12]


def fractions(tensor):
    """The exact values of a tensor, as nested lists."""
    return [fractions(row) for row in tensor] if tensor.dim() else Fraction(tensor.item())


def product(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def affine(seed):
    """Logits W x + b with offsets that cancel, and inputs some of which are nearly tied."""
    generator = torch.Generator().manual_seed(seed)
    inputs, classes = 2 + seed % 5, 2 + seed % 3
    scale = EXTREME[seed % len(EXTREME)]
    model = nn.Linear(inputs, classes).to(torch.float32 if seed % 2 else torch.float64)
    with torch.no_grad():
        model.weight.copy_(scale * torch.randn(model.weight.shape, generator=generator, dtype=torch.float64))
        offset = scale * 10.0 ** (seed % 9)
        model.bias.copy_(offset + scale * torch.randn(classes, generator=generator, dtype=torch.float64))
    x = torch.randn(12, inputs, generator=generator, dtype=torch.float64)
    w = (model.weight[0] - model.weight[1]).detach().double()
    gap = (x @ w + (model.bias[0] - model.bias[1]).detach().double()) / w.square().sum()
    steps = torch.tensor([1, 1 + 1e-15, 1 - 1e-12, 1 + 1e-7, 1 + 1e-4, 1.1, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    return model.eval(), x - (steps * gap)[:, None] * w


def check_affine(seed):
    """Return the smallest share of the exact distance that is certified."""
    model, x = affine(seed)
    b = bracket(model, shape=x.shape[1:], method="norms", steps=0)
    pairs = pairwise(model, shape=x.shape[1:], seconds=0.1)
    weight, bias, shares = fractions(model.weight), fractions(model.bias), []
    prediction, radius = Certified(model, b, pairs=pairs)(x)
    for point, c, r in zip(fractions(x), prediction.tolist(), fractions(radius), strict=True):
        logits = [product(row, point) + shift for row, shift in zip(weight, bias, strict=True)]
        for j in range(len(logits)):
            if j != c and r > 0:
                lead = logits[c] - logits[j]
                squares = sum((p - q) ** 2 for p, q in zip(weight[c], weight[j], strict=True))
                assert lead > 0
                assert r * r * squares <= lead * lead  # r ≤ lead / ‖w_c − w_j‖, the distance
                shares.append(float(r * r * squares / (lead * lead)) ** 0.5)
    return max(shares)


def on_a_line(seed):
    """A network 1 → 5 → 2, with logits and inputs in rational numbers."""
    torch.manual_seed(seed)
    model = mlp(1, 5, 2).eval().to(torch.float32 if seed % 2 else torch.float64)
    with torch.no_grad():
        model[2].bias += 10.0 ** (seed % 7)
    return model


def distance_on_a_line(model, t):
    """The exact distance from t to the nearest point where both logits are equal; None if there is none."""
    first, shift = ([row[0] for row in fractions(model[0].weight)], fractions(model[0].bias))
    second, out = fractions(model[2].weight), fractions(model[2].bias)

    def lead(s):
        hidden = [max(Fraction(0), w * s + b) for w, b in zip(first, shift, strict=True)]
        return sum((p - q) * h for p, q, h in zip(*second, hidden, strict=True)) + out[0] - out[1]

    kinks = sorted(-b / w for w, b in zip(first, shift, strict=True) if w != 0)
    ends = [kinks[0] - 1, *kinks, kinks[-1] + 1]
    roots = [k for k in ends if lead(k) == 0]
    for at, (low, high) in enumerate(itertools.pairwise(ends)):
        a, b = lead(low), lead(high)
        if a != b:
            root = low - a * (high - low) / (b - a)
            outside = (at == 0 and root < low) or (at == len(ends) - 2 and root > high)
            if low <= root <= high or outside:
                roots.append(root)
    return min((abs(root - t) for root in roots), default=None)


def check_on_a_line(seed):
    model = on_a_line(seed)
    x = torch.linspace(-4, 4, 25, dtype=torch.float64).unsqueeze(1)
    b = bracket(model, shape=(1,), method="norms", steps=0)
    radius = certified_radius(model, x, b)
    for t, r in zip(fractions(x[:, 0]), fractions(radius), strict=True):
        exact = distance_on_a_line(model, t)
        assert exact is None or r <= exact
    return float(radius.max())


@pytest.mark.parametrize("seed", [0, 1, 3, 5, 8])
def test_affine_classifiers(seed):
    share = check_affine(seed)
    assert share <= 1
    assert share > 0.99 or seed % 9 > 6  # with offsets of 1e7 and more, the enclosure of the logits shows


@pytest.mark.parametrize("seed", range(3))
def test_networks_on_a_line(seed):
    assert check_on_a_line(seed) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_networks():
    assert all(check_affine(seed) <= 1 for seed in range(100, 150))
    assert sum(check_on_a_line(seed) > 0 for seed in range(100, 150)) > 40


def test_logits_that_differ_by_rounding_are_not_certified():
    """W (x₁, x₂, x₃) with products that cancel: computed in float64 the lead has the wrong sign or size."""
    model = nn.Linear(3, 2).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e16, 1.0, -1e16], [0.0, 0.0, 0.0]]))
        model.bias.zero_()
    b = bracket(model, shape=(3,), method="norms", steps=0)
    x = torch.tensor([[1.0, 1e-3, 1.0], [1.0, -1e-3, 1.0], [1.0, 1e3, 1.0]], dtype=torch.float64)
    exact = torch.tensor([1e-3, 1e-3, 1e3]).double() / model.weight[0].norm()
    assert bool((certified_radius(model, x, b) <= exact).all())
