"""Models that write into their input get a copy: nothing fails, and no input of a user's changes."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from cheaplip import CLIP, Box, PairSet, ScaleFreeCLIP, bracket, certified_radius
from cheaplip.lipschitz import largest_quotient
from cheaplip.robustness import accuracy, attack
from networks import Apply


def shift(x, a):
    x -= 0.5
    return a(x)


def entry(x, a):
    x[:, 0] = x[:, 1] * 2
    return a(x)


def view(x, a):
    x.view(-1, 2, 3).mul_(2)
    return a(x)


MODELS = {
    "shift": shift,
    "entry": entry,
    "view": view,
    "clamp": lambda x, a: a(x.clamp_(-0.5, 0.5)),
    "relu": lambda x, a: a(F.relu(x, inplace=True)),
    "data": lambda x, a: a(x.data.mul_(2)) + 0 * x.sum(dim=1, keepdim=True),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return Apply(MODELS[request.param], nn.Linear(6, 3))


@pytest.fixture
def x():
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


def test_every_measure_leaves_its_inputs_alone(model, x):
    y, before, model = torch.zeros(len(x)).long(), x.clone(), model.eval()
    clip = CLIP(PairSet(x, size=8))
    assert float(clip(model).detach()) > 0
    assert float(clip.eval()(model).detach()) > 0
    assert largest_quotient(model, x, size=8, steps=3).value > 0
    accuracy(model, x, y)
    for name in ("noise", "pgd-sign"):
        attack(name, model, x, y, epsilon=0.1, domain=Box(-9.0, 9.0))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("kind", "every"), [(CLIP, 1), (CLIP, 3), (ScaleFreeCLIP, 3)])
def test_a_shared_pass_takes_them_and_trains(model, x, kind, every):
    before = x.clone()
    clip = kind(PairSet(x, size=8), every=every)
    for _ in range(3):
        output, penalty = clip.joint(model, x)
        (output.square().mean() + penalty).backward()
    assert torch.equal(x, before)
    assert model.parts[0].weight.grad is not None
    assert clip.pairs.age[0] > 0


def test_between_visits_a_model_that_only_reads_gets_the_batch_itself(x):
    seen = []
    model = Apply(lambda x, a: seen.append(x.data_ptr()) or a(x), nn.Linear(6, 3))
    clip = CLIP(PairSet(x, size=8), every=2)
    for _ in range(4):
        seen.clear()
        visited = clip.due
        output, penalty = clip.joint(model, x)
        (output.square().mean() + penalty).backward()
        assert (seen[-1] == x.data_ptr()) is not visited


@pytest.mark.parametrize("name", ["shift", "clamp"])
def test_bracket_and_certified_radius(name, x):
    torch.manual_seed(0)
    model = Apply(MODELS[name], nn.Linear(6, 3)).eval()
    before = x.clone()
    b = bracket(model, x=x, seconds=0.1)
    radius = certified_radius(model, x, b)
    assert 0 < b.lower <= b.upper < float("inf")
    assert float(radius.max()) > 0
    assert torch.equal(x, before)


def test_a_leading_relu_in_place():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)).eval()
    b = bracket(model, shape=(6,), seconds=0.1)
    assert 0 < b.lower <= b.upper < float("inf")
