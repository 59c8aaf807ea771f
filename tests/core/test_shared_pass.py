"""One pass shared by batch and pairs equals two, and its backward pass moves the pairs."""

import math

import pytest
import torch
from torch import Tensor, nn

from cheaplip import CLIP, Box, PairSet
from penalties import AGGREGATES, FORMS, STEPS, Count, gradients, inputs, measured, penalty_of, small_clip, tanh_net


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_joint_returns_the_output_and_the_penalty_at_the_present_pairs(aggregate):
    model, clip, x = tanh_net(3, 16, 2), small_clip(aggregate=aggregate), inputs(16, 3, seed=1)
    expected = measured(clip, model)
    output, penalty = clip.joint(model, x)
    torch.testing.assert_close(output, model(x))
    torch.testing.assert_close(penalty, expected)


@pytest.mark.parametrize("size", [1, 8, 32], ids=lambda size: f"{size} pairs")
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_joint_has_the_parameter_gradient_of_the_separate_form(aggregate, size):
    model, clip, x = tanh_net(3, 16, 2), small_clip(aggregate=aggregate, size=size, lam=1.0), inputs(16, 3, seed=1)
    separate = gradients(model(x).square().mean() + measured(clip, model), model)
    output, penalty = clip.joint(model, x)
    shared = gradients(output.square().mean() + penalty, model)
    for actual, wanted in zip(shared, separate, strict=True):
        assert (actual - wanted).norm() <= 1e-4 * wanted.norm()


@pytest.mark.parametrize("norm_in", [1, 2, math.inf], ids=lambda norm: f"in {norm}")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_joint_moves_the_pairs_as_the_separate_form_does(aggregate, step, norm_in):
    model, x = tanh_net(3, 16, 2), inputs(16, 3, seed=1)
    separate, shared = (
        small_clip(aggregate=aggregate, step=step, renew=0, norm_in=norm_in, domain=Box(0.0, 1.0)) for _ in range(2)
    )
    separate(model)
    output, penalty = shared.joint(model, x)
    (output.square().mean() + penalty).backward()
    torch.testing.assert_close(shared.pairs.u, separate.pairs.u, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shared.pairs.v, separate.pairs.v, rtol=1e-3, atol=1e-4)
    assert torch.equal(shared.pairs.age, separate.pairs.age)


@pytest.mark.parametrize("factor", [65536.0, 1 / 64], ids=["scaled up", "accumulation"])
@pytest.mark.parametrize("step", STEPS)
def test_the_scale_of_the_loss_does_not_change_the_move(step, factor):
    model, x = tanh_net(3, 16, 2), inputs(16, 3, seed=1)
    plain, scaled = (small_clip(step=step, renew=2, grace=0, lam=1.0) for _ in range(2))
    for clip, scale in ((plain, 1.0), (scaled, factor)):
        output, penalty = clip.joint(model, x)
        (scale * (output.square().mean() + penalty)).backward()
    torch.testing.assert_close(scaled.pairs.u, plain.pairs.u, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled.pairs.v, plain.pairs.v, rtol=1e-3, atol=1e-4)


def test_pairs_move_at_the_backward_pass_and_not_before():
    model, clip = tanh_net(3, 16, 2), small_clip()
    before = clip.pairs.u.clone()
    output, penalty = clip.joint(model, inputs(16, 3))
    assert torch.equal(clip.pairs.u, before)
    (output.square().mean() + penalty).backward()
    assert not torch.equal(clip.pairs.u, before)
    assert clip.pairs.age.tolist() == [1] * 8


def test_pairs_move_without_lam():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.0, renew=0)
    reference = small_clip(lam=1.0, renew=0)
    reference(model)
    output, penalty = clip.joint(model, inputs(16, 3))
    (output.square().mean() + penalty).backward()
    torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lam", [0.0, 1e-4, 1.0])
def test_small_pulls_move_pairs_as_far_as_large_ones(lam):
    # slopes of 0.01 on 784 inputs: the square of a pull times the smallest weight is 0 in float32
    model, x = tanh_net(784, 16, 2), inputs(32, 784)
    with torch.no_grad():
        model[-1].weight.mul_(0.01)
    pairs = PairSet(x, size=8, renew=0)
    clip, before = CLIP(pairs, lam=lam), (pairs.u + pairs.v) / 2
    output, penalty = clip.joint(model, x)
    (output.square().mean() + penalty).backward()
    moved = ((pairs.u + pairs.v) / 2 - before).norm(dim=1) / pairs.scale
    torch.testing.assert_close(moved, torch.full((8,), pairs.step_size), rtol=0.02, atol=0)
    torch.testing.assert_close((pairs.u - pairs.v).norm(dim=1) / pairs.scale, torch.full((8,), 0.05), rtol=0.01, atol=0)


@pytest.mark.parametrize("lam", [0.0, 1e-4])
@pytest.mark.parametrize("aggregate", ["max", "softmax", "mean"])
def test_pairs_where_the_model_is_flat_stay_as_long_as_they_are(aggregate, lam):
    x = inputs(32, 784) + 1
    model = nn.Sequential(nn.Linear(784, 4), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4, 784))
        model[0].bias.fill_(-100.0)  # dead everywhere
    pairs = PairSet(x, size=8, renew=0)
    before_u, before_v = pairs.u.clone(), pairs.v.clone()
    output, penalty = CLIP(pairs, lam=lam, aggregate=aggregate).joint(model, x)
    (output.sum() + penalty).backward()
    torch.testing.assert_close(pairs.u, before_u)
    torch.testing.assert_close(pairs.v, before_v)


def test_a_backward_pass_without_the_penalty_moves_nothing():
    model, clip = tanh_net(3, 16, 2), small_clip()
    before = clip.pairs.u.clone()
    output, _ = clip.joint(model, inputs(16, 3))
    output.square().mean().backward()
    assert torch.equal(clip.pairs.u, before)
    assert clip.pairs.age.tolist() == [0] * 8


def test_a_backward_pass_of_the_penalty_alone_moves_the_pairs():
    model, clip, reference = tanh_net(3, 16, 2), small_clip(renew=0), small_clip(renew=0)
    reference(model)
    clip.joint(model, inputs(16, 3))[1].backward()
    torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("penalty_first", [False, True], ids=["loss first", "penalty first"])
def test_loss_and_penalty_in_two_backward_passes(penalty_first):
    model, clip, reference = tanh_net(3, 16, 2), small_clip(renew=0), small_clip(renew=0)
    reference(model)
    output, penalty = clip.joint(model, inputs(16, 3))
    loss = output.square().mean()
    first, second = (penalty, loss) if penalty_first else (loss, penalty)
    first.backward(retain_graph=True)
    second.backward()
    torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=1e-3, atol=1e-4)
    assert clip.pairs.age.tolist() == [1] * 8


@pytest.mark.parametrize("factor", [0.0, math.inf, math.nan], ids=str)
def test_a_loss_scaled_to_zero_or_overflow_leaves_the_pairs_finite(factor):
    model, clip = tanh_net(3, 16, 2), small_clip(renew=2, grace=0)
    output, penalty = clip.joint(model, inputs(16, 3))
    (factor * (output.square().mean() + penalty)).backward()
    assert bool(torch.isfinite(clip.pairs.u).all() and torch.isfinite(clip.pairs.v).all())


def test_gradients_accumulate_over_calls():
    model, clip, xs = tanh_net(3, 16, 2), small_clip(renew=0), inputs(2, 16, 3, seed=1)
    reference, total = small_clip(renew=0), [torch.zeros_like(parameter) for parameter in model.parameters()]
    for x in xs:
        loss = model(x).square().mean() + measured(reference, model)
        total = [so_far + new for so_far, new in zip(total, gradients(loss, model), strict=True)]
        reference(model)
    for x in xs:
        output, penalty = clip.joint(model, x)
        (output.square().mean() + penalty).backward()
    for parameter, wanted in zip(model.parameters(), total, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=1e-3, atol=1e-4)


def test_two_calls_before_one_backward_pass():
    model, clip = tanh_net(3, 16, 2), small_clip(domain=Box(0.0, 1.0), renew=2, grace=0)
    losses = [sum(clip.joint(model, x), start=torch.zeros(())).square().mean() for x in inputs(2, 16, 3)]
    sum(losses).backward()
    assert clip.pairs.domain.contains(torch.cat([clip.pairs.u, clip.pairs.v]))


def test_inputs_that_require_gradients_receive_their_own():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3).requires_grad_()
    (expected,) = torch.autograd.grad(model(x).square().mean(), x)
    output, penalty = clip.joint(model, x)
    (output.square().mean() + penalty).backward()
    torch.testing.assert_close(x.grad, expected)
    assert clip.pairs.age.tolist() == [1] * 8


def test_inputs_that_require_gradients_do_not_change_the_move():
    model, plain, graded = tanh_net(3, 16, 2), small_clip(grace=0, renew=3), small_clip(grace=0, renew=3)
    penalty_of(plain, "shared pass", model, inputs(16, 3))
    penalty_of(graded, "shared pass", model, inputs(16, 3).requires_grad_())
    torch.testing.assert_close(graded.pairs.u, plain.pairs.u)


@pytest.mark.parametrize("form", FORMS)
def test_pairs_climb_a_frozen_model(form):
    model, clip = tanh_net(3, 16, 2).requires_grad_(False), small_clip()
    before = clip.pairs.u.clone()
    penalty_of(clip, form, model, inputs(16, 3))
    assert not torch.equal(clip.pairs.u, before)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_pairs_climb_a_partly_frozen_model(form):
    model, clip = tanh_net(3, 16, 2), small_clip(renew=0)
    reference = small_clip(renew=0)
    reference(model)
    model[0].requires_grad_(False)
    penalty_of(clip, form, model, inputs(16, 3))
    torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=1e-3, atol=1e-4)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]


def test_newcomers_start_at_the_batch_s_steepest_inputs():
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    x = inputs(16, 3, seed=1)
    steepest = x.abs().amax(dim=1).topk(2).indices
    x[steepest] = torch.tensor([[9.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    clip = small_clip(renew=2, grace=0, lam=0.1)
    output, penalty = clip.joint(Square(), x)
    (output.sum() + penalty).backward()
    newcomers = clip.pairs.u[clip.pairs.age == 0]
    assert sorted(newcomers.amax(dim=1).tolist()) == [8.0, 9.0]


def test_steepest_means_the_model_s_slope_and_not_the_loss_s():
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    x, weights = torch.full((16, 3), 0.1), torch.ones(16, 1)
    x[3], weights[3] = torch.tensor([5.0, 0.0, 0.0]), 1e-3  # steep, and hardly in the loss
    weights[7] = 1e3
    clip = small_clip(renew=1, grace=0)
    output, penalty = clip.joint(Square(), x)
    ((weights * output).sum() + penalty).backward()
    assert clip.pairs.u[clip.pairs.age == 0].tolist() == [[5.0, 0.0, 0.0]]


def test_joint_newcomers_from_a_batch_outside_the_domain_are_projected():
    clip = small_clip(domain=Box(0.0, 1.0), renew=4, grace=0)
    penalty_of(clip, "shared pass", tanh_net(3, 16, 2), inputs(16, 3) + 0.5)
    assert clip.pairs.domain.contains(clip.pairs.u)


def test_joint_takes_one_pass_over_batch_and_pairs():
    model, clip, x = Count(tanh_net(3, 16, 2)), small_clip(size=8), inputs(16, 3)
    penalty_of(clip, "shared pass", model, x)  # the first call checks the model
    model.rows.clear()
    penalty_of(clip, "shared pass", model, x)
    assert model.rows == [16 + 2 * 8]
