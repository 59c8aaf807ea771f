"""CLIP without a scale, and the loss that goes with it: what does not change with scale, and the exact gradient."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from cheaplip import CLIP, DiscrepancyPrinciple, MarginLoss, PairSet, ScaleFreeCLIP
from cheaplip.errors import BatchDependentLayerError


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(24, 4, generator=generator), torch.randint(3, (24,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, x, y


def exact(clip, model, x):
    """f(x) / L with the mean quotient as L, both in the graph."""
    return model(x) / clip.pairs.quotients(model).mean()


def test_the_margin_loss_is_a_smooth_hinge():
    z, y = torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([0])
    loss, t = MarginLoss(3.5, soft=0.2)(z, y), 0.7
    expected = t * math.log(1 + math.exp((3.5 - 3) / t) + math.exp((3.5 - 4) / t))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_margin_is_steered_like_the_weight_of_a_penalty():
    loss = MarginLoss(1.0)
    controller = DiscrepancyPrinciple(loss, target=0.9)
    controller.step(0.99)
    controller.step(0.99)
    assert loss.lam > 1.0


@pytest.mark.parametrize("options", [{"margin": 0.0}, {"margin": math.nan}, {"margin": 1.0, "soft": 0.0}])
def test_the_margin_loss_refuses_what_is_not_positive(options):
    with pytest.raises(ValueError, match=r"(margin|soft): expected a positive number"):
        MarginLoss(**options)


def test_a_linear_map_of_one_input_is_divided_by_its_slope():
    x = torch.linspace(-1, 1, 16).unsqueeze(1)
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, -5.0)
    nn.init.zeros_(model.bias)
    clip = ScaleFreeCLIP(PairSet(x, size=4), every=1)
    z, _ = clip.joint(model, x)
    torch.testing.assert_close(z, -x, rtol=1e-4, atol=1e-5)
    assert clip.largest.item() == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("form", ["joint", "separate"])
def test_scaling_the_model_changes_nothing(form):
    model, x, _ = problem()
    large = copy.deepcopy(model)
    with torch.no_grad():
        large[2].weight.mul_(100)
        large[2].bias.mul_(100)
    found = []
    for network in (model, large):
        clip = ScaleFreeCLIP(PairSet(x, size=6), every=1).eval()
        found.append((clip.joint if form == "joint" else clip)(network, x)[0])
    torch.testing.assert_close(found[0], found[1])


def test_the_gradient_is_that_of_the_loss_of_the_divided_outputs():
    model, x, _ = problem()
    y = model(x).argmax(dim=1)  # the loss would like larger outputs then: its exchange rate is positive
    clip = ScaleFreeCLIP(PairSet(x, size=6), every=1, aggregate="mean", pull=0.0).eval()
    loss = MarginLoss(0.5)
    wanted = torch.autograd.grad(loss(exact(clip, model, x), y), list(model.parameters()))
    z, _ = clip.joint(model, x)
    torch.testing.assert_close(z, exact(clip, model, x))
    (slopes,) = torch.autograd.grad(loss(z, y), z)
    clip.rate.copy_(-(slopes * z).sum().detach())
    z, penalty = clip.joint(model, x)
    found = torch.autograd.grad(loss(z, y) + penalty, list(model.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_step_reads_the_exchange_rate_off_its_backward_pass():
    model, x, y = problem()
    clip, loss = ScaleFreeCLIP(PairSet(x, size=6), every=1, memory=0.0), MarginLoss(0.5)
    z, penalty = clip.joint(model, x)
    at = z.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(loss(at, y), at)
    (loss(z, y) + penalty).backward()
    assert clip.rate.item() == pytest.approx(-(slopes * at).sum().item(), rel=1e-4)


def test_between_visits_the_scale_follows_the_batch():
    model, x, y = problem()
    clip, loss = ScaleFreeCLIP(PairSet(x, size=6), every=4), MarginLoss(0.5)
    z, penalty = clip.joint(model, x)
    (loss(z, y) + penalty).backward()
    calls = clip.pairs.u.clone()
    with torch.no_grad():  # the network's scale changes while nobody looks at the pairs
        model[2].weight.mul_(10)
        model[2].bias.mul_(10)
    again, penalty = clip.joint(model, x)
    (loss(again, y) + penalty).backward()
    assert torch.equal(clip.pairs.u, calls)
    torch.testing.assert_close(again, z, rtol=1e-3, atol=1e-4)


def test_training_keeps_the_constant_near_one_and_learns():
    model, x, y = problem()
    y = (x[:, 0] > x[:, 1]).long()
    clip, loss = ScaleFreeCLIP(PairSet(x, size=8), every=2), MarginLoss(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(400):
        z, penalty = clip.joint(model, x)
        optimizer.zero_grad()
        (loss(z, y) + penalty).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    assert 0.3 < clip.largest.item() < 3


def test_it_resumes_bit_for_bit():
    model, x, y = problem()
    clip, loss = ScaleFreeCLIP(PairSet(x, size=6), every=2), MarginLoss(0.5)

    def step(clip, model):
        z, penalty = clip.joint(model, x)
        model.zero_grad()
        (loss(z, y) + penalty).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad

    for _ in range(3):
        step(clip, model)
    other, twin = ScaleFreeCLIP(PairSet(x, size=6), every=2), copy.deepcopy(model)
    other.load_state_dict(copy.deepcopy(clip.state_dict()))
    for _ in range(3):
        step(clip, model)
        step(other, twin)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_paper_s_form_is_left_as_it_was():
    model, x, _ = problem()
    plain, scale_free = CLIP(PairSet(x, size=6), 1.0), ScaleFreeCLIP(PairSet(x, size=6), every=1)
    output, penalty = plain.eval().joint(model, x)
    scale_free.eval().joint(model, x)
    assert torch.equal(output, model(x))
    assert penalty.item() <= plain.largest.item() == scale_free.largest.item()


def test_what_mixes_the_batch_is_refused_in_the_shared_pass_alone():
    _, x, _ = problem()
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(BatchDependentLayerError, match="layer '1' \\(BatchNorm1d\\)"):
        ScaleFreeCLIP(PairSet(x, size=6)).joint(model, x)
    z, penalty = ScaleFreeCLIP(PairSet(x, size=6))(model, x)
    assert z.shape == (24, 3)
    assert penalty.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pull": -1.0}, "pull: expected a finite number of at least 0, got -1.0"),
        ({"memory": 1.0}, "memory: expected a number in [0, 1), got 1.0"),
        ({"every": 0}, "every: expected 1 or more, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ScaleFreeCLIP(PairSet(torch.rand(8, 2)), **options)


def test_a_single_input_has_no_spread():
    model, x, _ = problem()
    with pytest.raises(ValueError, match="expected a batch of two or more inputs, got 1"):
        ScaleFreeCLIP(PairSet(x, size=6)).joint(model, x[:1])


@pytest.mark.parametrize("call", ["joint", "forward"])
def test_arguments_in_the_wrong_order_are_named(call):
    model, x, _ = problem()
    clip = ScaleFreeCLIP(PairSet(x[:8]))
    message = f"{call}: expected a model, and a tensor of inputs, got Tensor and Sequential: the model comes first"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        getattr(clip, call)(x, model)
