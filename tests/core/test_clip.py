"""The penalty: Algorithm 2's values and gradients, one shared pass equal to two, and a model left as it was."""

import copy
import gc
import itertools
import math
import pickle
import re
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cheaplip import CLIP, BatchDependentLayerError, Box, CheaplipWarning, DiscrepancyPrinciple, PairSet
from cheaplip.quotient import quotient

STEPS = ["power", "gradient", "quotient"]
AGGREGATES = ["max", "softmax", "mean"]
FORMS = ["own pass", "shared pass"]
SHAPES = [(64,), (64, 3), (64, 1, 8, 8), (64, 2, 3, 4, 5)]
REMEDY = "use clip(model), which gives the pairs a pass of their own, instead of clip.joint(model, x)"
fast = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)


def inputs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(build, seed: int = 0) -> nn.Module:
    """A model whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def tanh_net(*sizes: int, seed: int = 0) -> nn.Sequential:
    def build() -> nn.Sequential:
        layers = [layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m), nn.Tanh())]
        return nn.Sequential(*layers[:-1])

    return seeded(build, seed)


def small_clip(*, size: int = 8, lam: float = 0.5, domain: Box | None = None, **options) -> CLIP:
    own = {name: options.pop(name) for name in ("aggregate", "every", "norm_in", "norm_out") if name in options}
    return CLIP(PairSet(inputs(64, 3), size=size, domain=domain, **options), lam=lam, **own)


def penalty_of(clip: CLIP, form: str, model, x: Tensor) -> Tensor:
    """One call in either form, and in the shared one the backward pass that moves the pairs."""
    if form == "own pass":
        return clip(model)
    output, penalty = clip.joint(model, x)
    (output.square().mean() + penalty).backward()
    return penalty.detach()


def quotients_of(clip: CLIP, model) -> Tensor:
    u, v = clip.pairs.u, clip.pairs.v
    return quotient(model(u), model(v), u, v, norm_in=clip.norm_in, norm_out=clip.norm_out)


def measured(clip: CLIP, model) -> Tensor:
    """The penalty at the present pairs, which do not move."""
    clip.eval()
    penalty = clip(model)
    clip.train()
    return penalty


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))


class BatchNormModel(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Count(nn.Module):
    """Counts the passes and the inputs its model has seen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.model(x)


class Recurrent(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].flatten(1)


class Centre(nn.Module):
    """Subtracts the batch's mean, in every mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class CentreInTraining(nn.Module):
    """Subtracts the batch's mean, in train mode only."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0) if self.training else x


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


class DropoutAcrossTime(nn.Module):
    """Dropout on a tensor whose first dimension is not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x.transpose(0, 1)).transpose(0, 1)


# Values and gradients


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_value_at_the_new_pairs(aggregate):
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.7, aggregate=aggregate)
    penalty = clip(model)
    quotients = quotients_of(clip, model)
    temperature = 0.2 * quotients.amax()
    expected = {
        "max": quotients.amax(),
        "softmax": temperature * (quotients / temperature).exp().mean().log(),
        "mean": quotients.mean(),
    }[aggregate]
    torch.testing.assert_close(penalty, 0.7 * expected)


def test_gradient_of_max_is_that_of_the_largest_pair():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.7, aggregate="max")
    penalty = clip(model)
    quotients = quotients_of(clip, model)
    expected = gradients(0.7 * quotients[quotients.argmax()], model)
    for actual, wanted in zip(gradients(penalty, model), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_gradient_of_softmax_weighs_pairs_by_softmax():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=0.7, aggregate="softmax")
    penalty = clip(model)
    quotients = quotients_of(clip, model)
    weights = (quotients / (0.2 * quotients.amax())).softmax(dim=0).detach()
    expected = gradients(0.7 * (weights * quotients).sum(), model)
    for actual, wanted in zip(gradients(penalty, model), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-6)


@fast
@given(seeds)
def test_softmax_lies_between_mean_and_max(seed):
    model = tanh_net(3, 16, 2, seed=seed)
    low, middle, high = (measured(small_clip(aggregate=name), model).item() for name in ("mean", "softmax", "max"))
    assert low * (1 - 1e-5) <= middle <= high * (1 + 1e-5)


def test_softmax_is_the_default():
    assert small_clip().aggregate == "softmax"


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_penalty_scales_with_lam(aggregate):
    model = tanh_net(3, 16, 2)
    one, two = (small_clip(lam=lam, aggregate=aggregate)(model) for lam in (1.0, 2.5))
    torch.testing.assert_close(2.5 * one, two)


@pytest.mark.parametrize("form", FORMS)
def test_a_new_value_of_lam_takes_effect(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(lam=0.5), inputs(16, 3)
    clip.lam.fill_(0.0)
    assert penalty_of(clip, form, model, x).item() == 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_constant_model_has_zero_penalty_and_finite_gradients(aggregate, form):
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    clip = small_clip(aggregate=aggregate, domain=Box(0.0, 1.0))
    penalty = clip(model) if form == "own pass" else clip.joint(model, inputs(16, 3))[1]
    penalty.backward()
    assert penalty.item() == 0.0
    assert bool(torch.isfinite(model.weight.grad).all())
    assert bool(torch.isfinite(clip.pairs.u).all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_equal_ends_give_finite_gradients(aggregate, form):
    model, clip = tanh_net(3, 8, 2), small_clip(aggregate=aggregate, renew=0, step="quotient")
    clip.pairs.v.copy_(clip.pairs.u)
    penalty = clip(model) if form == "own pass" else clip.joint(model, inputs(16, 3))[1]
    penalty.backward()
    assert penalty.item() == 0.0
    assert all(bool((parameter.grad == 0).all()) for parameter in model.parameters() if parameter.grad is not None)
    assert bool(torch.isfinite(clip.pairs.u).all() and torch.isfinite(clip.pairs.v).all())


@pytest.mark.parametrize("form", FORMS)
def test_largest_is_the_quotient_and_not_its_square(form):
    clip = small_clip(norm_in=2, norm_out=2)
    penalty_of(clip, form, seeded(lambda: scaled_identity(3.0)), inputs(16, 3))
    assert clip.largest.item() == pytest.approx(3.0, rel=1e-4)


def scaled_identity(factor: float) -> nn.Linear:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(factor * torch.eye(3))
    return layer


@pytest.mark.parametrize("lam", [0.0, 0.1, 10.0], ids=str)
def test_largest_does_not_depend_on_lam(lam):
    clip = small_clip(lam=lam)
    clip(scaled_identity(3.0))
    assert clip.largest.item() == pytest.approx(3.0, rel=1e-4)


def test_largest_is_the_largest_at_the_new_pairs():
    model, clip = tanh_net(3, 16, 2), small_clip()
    clip(model)
    torch.testing.assert_close(clip.largest, quotients_of(clip, model).amax().detach())


def test_training_with_the_penalty_lowers_the_constant():
    model, clip = tanh_net(3, 16, 2), small_clip(lam=1.0)
    before = measured(clip, model).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        clip(model).backward()
        optimizer.step()
    assert measured(clip, model).item() < 0.5 * before


# One shared pass equals two


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


# Modes, gradients and generators are left as they were


def mixed(model: nn.Module) -> nn.Module:
    model.train()
    model.body[1].eval()
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clip_training", [True, False], ids=["clip trains", "clip measures"])
@pytest.mark.parametrize(
    "set_mode", [nn.Module.train, nn.Module.eval, mixed], ids=["train mode", "eval mode", "frozen batch norm"]
)
def test_every_submodule_keeps_its_mode(set_mode, clip_training, form):
    model, clip = set_mode(BatchNormModel(dropout=0.5)), small_clip().train(clip_training)
    before = [module.training for module in model.modules()]
    refused = form == "shared pass" and clip_training and model.body[1].training
    with pytest.raises(BatchDependentLayerError) if refused else nullcontext():
        penalty_of(clip, form, model, inputs(16, 3))
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("form", FORMS)
def test_modes_are_restored_after_an_error(form):
    class Fails(BatchNormModel):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"no {tuple(x.shape)}")

    model = mixed(Fails())
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="no"):
        penalty_of(small_clip(), form, model, inputs(16, 3))
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("form", FORMS)
def test_no_hook_is_left_on_the_model(form):
    model = mixed(BatchNormModel(dropout=0.5))
    penalty_of(small_clip(), form, model, inputs(16, 3))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_hook_is_left_after_a_refusal():
    model = nn.Sequential(nn.Linear(3, 4), Centre())
    with pytest.raises(BatchDependentLayerError):
        small_clip().joint(model, inputs(16, 3))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("backward", [True, False], ids=["backward", "no backward"])
def test_no_reference_cycle_keeps_a_pass_alive(backward):
    net, clip, passes = tanh_net(3, 16, 2), small_clip(), []

    def model(x: Tensor) -> Tensor:
        out = net(x)
        passes.extend(weakref.ref(tensor) for tensor in (x, out) if out.requires_grad)
        return out

    gc.disable()
    try:
        output, penalty = clip.joint(model, inputs(16, 3))
        if backward:
            (output.square().mean() + penalty).backward()
        del output, penalty
        assert [tensor() for tensor in passes] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("form", FORMS)
def test_requires_grad_is_left_alone(form):
    model, x = tanh_net(3, 16, 2), inputs(16, 3)
    model[0].weight.requires_grad_(False)
    penalty_of(small_clip(), form, model, x)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True]
    assert not x.requires_grad


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("filled", [False, True], ids=["no gradient", "a gradient"])
def test_no_gradient_is_written_before_the_user_s_backward_pass(filled, form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    before = []
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0) if filled else None
        before.append(parameter.grad)
    if form == "own pass":
        clip(model)
    else:
        clip.joint(model, x)
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), before, strict=True))
    assert all(grad is None or bool((grad == 7.0).all()) for grad in before)
    assert x.grad is None


@pytest.mark.parametrize("form", FORMS)
def test_the_user_s_backward_pass_adds_the_gradient_once(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    output, penalty = (model(x), clip(model)) if form == "own pass" else clip.joint(model, x)
    loss = output.square().mean() + penalty
    expected = gradients(loss, model)
    loss.backward()
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 7.0 + wanted)


@pytest.mark.parametrize("form", FORMS)
def test_the_model_s_state_is_left_alone(form):
    model = mixed(BatchNormModel())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    penalty_of(small_clip(), form, model, inputs(16, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_the_global_generator_is_left_alone(form):
    model, x = tanh_net(3, 16, 2), inputs(16, 3)
    before = torch.random.get_rng_state()
    clip = small_clip(grace=0, renew=4)
    for _ in range(3):
        penalty_of(clip, form, model, x)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_global_generator_is_left_alone_by_a_model_with_dropout():
    before = torch.random.get_rng_state()
    model = seeded(lambda: BatchNormModel(dropout=0.5))
    small_clip()(model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_batch_norm_statistics_never_see_pairs():
    model = BatchNormModel().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    small_clip()(model)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_batch_norm_statistics_see_the_batch_alone():
    one, other, x = (seeded(BatchNormModel), seeded(BatchNormModel), inputs(16, 3))
    one(x)
    (other(x).square().mean() + small_clip()(other)).backward()
    for actual, wanted in zip(other.buffers(), one.buffers(), strict=True):
        assert torch.equal(actual, wanted)


def test_instance_norm_statistics_never_see_pairs_in_a_shared_pass():
    x = inputs(16, 4, 5)
    model, reference = (nn.InstanceNorm1d(4, track_running_stats=True) for _ in range(2))
    reference(x)
    try:
        CLIP(PairSet(x, size=8)).joint(model, x)
    except BatchDependentLayerError:
        return
    torch.testing.assert_close(model.running_mean, reference.running_mean)


def test_dropout_is_off_for_pairs_in_a_pass_of_their_own():
    model = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 2)).train()
    one, other = small_clip()(model), small_clip()(model)
    assert one.item() == other.item()


def dropout_net(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 64), layer, nn.Tanh(), nn.Linear(64, 2)).train()


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.Dropout(1.0)], ids=["dropout", "alpha", "everything"]
)
def test_dropout_is_off_for_pairs_in_a_shared_pass(layer):
    model, clip = dropout_net(layer), small_clip()
    expected = measured(clip, model)
    for _ in range(2):
        torch.testing.assert_close(clip.joint(model, inputs(16, 3))[1], expected)


def test_the_batch_s_own_dropout_stays_on():
    model, clip, x = nn.Sequential(nn.Linear(3, 512), nn.Dropout(0.25)), small_clip(), inputs(16, 3)
    output, _ = clip.joint(model, x)
    dropped = (output == 0).float().mean(dim=1)
    assert bool(((dropped > 0.15) & (dropped < 0.35)).all())
    assert not torch.equal(output, clip.joint(model, x)[0])


def test_a_dropout_module_used_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.dropout = nn.Linear(3, 3), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.dropout(self.layer(self.dropout(x)))

    model, clip = Twice(), small_clip()
    expected = measured(clip, model)
    torch.testing.assert_close(clip.joint(model, inputs(16, 3))[1], expected)


def test_dropout_called_with_a_keyword():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.dropout = nn.Linear(3, 3), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.dropout(input=x))

    model, clip = Keyword(), small_clip()
    expected = measured(clip, model)
    torch.testing.assert_close(clip.joint(model, inputs(16, 3))[1], expected)


@pytest.mark.parametrize("build", [FunctionalDropout, DropoutAcrossTime], ids=["functional", "across time"])
def test_dropout_that_cannot_be_switched_off_for_pairs_is_refused(build):
    x = inputs(64, 5, 3)
    model = nn.Sequential(nn.Linear(3, 4), build(), nn.Linear(4, 2)).train()
    with pytest.raises(BatchDependentLayerError, match=re.escape(REMEDY)):
        CLIP(PairSet(x, size=8)).joint(model, x[:16])


# Batch-dependent layers


@pytest.mark.parametrize(
    ("model", "shape", "layer"),
    [
        (BatchNormModel(), (64, 3), "layer 'body.1' (BatchNorm1d) takes its statistics from the whole batch"),
        (nn.BatchNorm1d(3), (64, 3), "layer 'model' (BatchNorm1d) takes its statistics from the whole batch"),
        (
            nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)).eval(),
            (64, 1, 8, 8),
            "layer '0' (BatchNorm2d) takes its statistics from the whole batch",
        ),
        (
            Attention(0.1),
            (64, 5, 4),
            "layer 'attention' (MultiheadAttention) drops attention weights inside, where it cannot be switched off "
            "for pairs alone",
        ),
        (
            Recurrent(0.1),
            (64, 5, 3),
            "layer 'lstm' (LSTM) drops activations inside, where it cannot be switched off for pairs alone",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5, inplace=True)),
            (64, 3),
            "layer '1' (Dropout) drops activations in place, where it cannot be switched off for pairs alone",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), Centre(), nn.Linear(4, 2)),
            (64, 3),
            "layer '1' (Centre): its output for an input depends on the rest of the batch",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), CentreInTraining(), nn.Linear(4, 2)),
            (64, 3),
            "layer '1' (CentreInTraining): its output for an input depends on the rest of the batch",
        ),
        (
            lambda x: x - x.mean(dim=0),
            (64, 3),
            "layer 'model' (function): its output for an input depends on the rest of the batch",
        ),
    ],
    ids=[
        "batch norm",
        "batch norm alone",
        "batch norm without statistics",
        "attention with dropout",
        "lstm with dropout",
        "dropout in place",
        "hand-written",
        "hand-written, train mode only",
        "function",
    ],
)
def test_joint_refuses_a_batch_dependent_layer_by_name(model, shape, layer):
    x = inputs(*shape)
    with pytest.raises(BatchDependentLayerError, match=f"^{re.escape(f'{layer}: {REMEDY}')}$"):
        CLIP(PairSet(x, size=8)).joint(model, x[:16])


def test_joint_refuses_a_recurrence_over_the_batch():
    x = inputs(64, 5, 3)
    model = nn.LSTM(3, 4)  # takes the batch for time
    with pytest.raises(BatchDependentLayerError, match="depends on the rest of the batch"):
        CLIP(PairSet(x, size=8)).joint(lambda x: model(x)[0], x)


def test_joint_checks_every_model_it_is_shown():
    clip, x = small_clip(), inputs(16, 3)
    clip.joint(tanh_net(3, 16, 2), x)
    with pytest.raises(BatchDependentLayerError):
        clip.joint(nn.Sequential(nn.Linear(3, 4), Centre()), x)


def test_joint_refuses_a_layer_whose_mode_changes_later():
    clip, model, x = small_clip(), BatchNormModel().eval(), inputs(16, 3)
    clip.joint(model, x)
    with pytest.raises(BatchDependentLayerError, match=re.escape("'body.1' (BatchNorm1d)")):
        clip.joint(model.train(), x)


@pytest.mark.parametrize("error", [ValueError, BatchDependentLayerError])
def test_a_refusal_is_a_value_error(error):
    with pytest.raises(error):
        small_clip().joint(BatchNormModel(), inputs(16, 3))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (BatchNormModel().eval(), (64, 3)),
        (Attention(0.1).eval(), (64, 5, 4)),
        (Attention(0.0), (64, 5, 4)),
        (Recurrent(0.1).eval(), (64, 5, 3)),
        (Recurrent(0.0), (64, 5, 3)),
        (nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)), (64, 3)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Flatten()), (64, 1, 8, 8)),
        (nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0, inplace=True)), (64, 3)),
    ],
    ids=[
        "batch norm in eval mode",
        "attention in eval mode",
        "attention without dropout",
        "lstm in eval mode",
        "lstm without dropout",
        "layer norm",
        "group and instance norm",
        "dropout of nothing",
    ],
)
def test_joint_accepts_layers_that_keep_inputs_apart(model, shape):
    x = inputs(*shape)
    clip = CLIP(PairSet(x, size=8))
    output, penalty = clip.joint(model, x[:16])
    (output.square().mean() + penalty).backward()
    assert clip.pairs.age.tolist() == [1] * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_joint_does_not_take_rounding_for_batch_dependence(dtype):
    x = inputs(64, 32).to(dtype)
    for seed in range(5):
        model = tanh_net(32, 64, 64, 64, 2, seed=seed).to(dtype)
        CLIP(PairSet(x, size=8)).joint(model, x)


@pytest.mark.parametrize(
    "model",
    [BatchNormModel(dropout=0.5), nn.Sequential(nn.Linear(3, 4), Centre()), dropout_net(FunctionalDropout())],
    ids=["batch norm", "hand-written", "functional dropout"],
)
def test_the_remedy_works(model):
    clip = small_clip()
    penalty = clip(model)
    penalty.backward()
    assert penalty.item() > 0
    assert clip.pairs.age.tolist() == [1] * 8


# Train and eval mode of the penalty


@pytest.mark.parametrize("form", FORMS)
def test_in_eval_mode_a_call_only_measures(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(grace=0, renew=2), inputs(16, 3)
    penalty_of(clip, form, model, x)
    clip.eval()
    before = {name: value.clone() for name, value in clip.state_dict().items() if name != "largest"}
    clip.largest.zero_()
    for _ in range(3):
        penalty_of(clip, form, model, x)
    assert all(torch.equal(clip.state_dict()[name], value) for name, value in before.items())
    assert clip.largest > 0


@pytest.mark.parametrize("form", FORMS)
def test_in_eval_mode_every_call_measures(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(every=3), inputs(16, 3)
    expected = small_clip().eval()(model).item()
    clip.eval()
    for _ in range(4):
        assert penalty_of(clip, form, model, x).item() == pytest.approx(expected)


def test_in_eval_mode_no_gradient_is_needed():
    model, clip = tanh_net(3, 16, 2), small_clip().eval()
    with torch.no_grad():
        output, penalty = clip.joint(model, inputs(16, 3))
    assert not output.requires_grad
    assert penalty > 0


def test_in_eval_mode_batch_norm_is_welcome_in_joint():
    x, model, clip = inputs(16, 3), BatchNormModel().train(), small_clip().eval()
    output, penalty = clip.joint(model, x)
    torch.testing.assert_close(output, model(x))
    assert penalty > 0


def test_pairs_climb_inside_no_grad():
    clip = small_clip()
    with torch.no_grad():
        penalty = clip(tanh_net(3, 16, 2))
    assert clip.pairs.age.tolist() == [1] * 8
    assert not penalty.requires_grad


# Lazy regularisation


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_each_kth_call_has_weight_k_and_the_others_none(every, form):
    model, x = tanh_net(3, 16, 2), inputs(16, 3)
    fixed = {"step": "quotient", "renew": 0}  # pairs that move the same way, however seldom they are called
    lazy, eager = small_clip(every=every, **fixed), small_clip(**fixed)
    for call in range(7):
        penalty = penalty_of(lazy, form, model, x).item()
        expected = every * penalty_of(eager, form, model, x).item() if call % every == 0 else 0.0
        assert penalty == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("form", "between"), [("own pass", []), ("shared pass", [16])], ids=["own pass", "shared pass"]
)
def test_the_calls_between_cost_nothing(form, between):
    model, clip, x = Count(tanh_net(3, 16, 2)), small_clip(every=3), inputs(16, 3)
    for call in range(6):
        model.rows.clear()
        before = clip.pairs.u.clone()
        if form == "own pass":
            clip(model)
        else:
            output, penalty = clip.joint(model, x)
            (output.square().mean() + penalty).backward()
        due = call % 3 == 0
        assert (model.rows == between) is not due
        assert torch.equal(clip.pairs.u, before) is not due


# Inputs, types and models of every kind


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank{len(shape) - 1}")
def test_inputs_of_any_rank(shape, form):
    net = tanh_net(math.prod(shape[1:]), 8, 2)
    clip = CLIP(PairSet(inputs(*shape), size=8, grace=0, renew=2, domain=Box(0.0, 1.0)))
    for _ in range(3):
        penalty = penalty_of(clip, form, lambda x: net(x.reshape(len(x), -1)), inputs(16, *shape[1:], seed=1))
    assert penalty > 0
    assert clip.pairs.domain.contains(torch.cat([clip.pairs.u, clip.pairs.v]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=lambda shape: f"rank{len(shape)}")
def test_outputs_of_any_rank(shape, form):
    matrix = inputs(3, max(math.prod(shape), 1))
    clip = small_clip(aggregate="max", lam=1.0)
    for _ in range(10):
        penalty = penalty_of(clip, form, lambda x: (x @ matrix).reshape(len(x), *shape), inputs(16, 3))
    assert penalty.item() == pytest.approx(torch.linalg.matrix_norm(matrix, ord=2).item(), rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_inputs_of_other_types(dtype, kept, form):
    model = tanh_net(3, 16, 2)
    x = inputs(64, 3).to(dtype)
    # float32 arithmetic on the same values is the reference; ends are rounded to the inputs' type
    clip, reference = (CLIP(PairSet(data, size=8, renew=0), lam=1.0, aggregate="max") for data in (x, x.to(kept)))
    expected = penalty_of(reference, form, seeded(lambda: tanh_net(3, 16, 2)).to(kept), x.to(kept))
    penalty = penalty_of(clip, form, model.to(dtype), x)
    tolerance = 0.3 if dtype == torch.bfloat16 else 0.05
    assert penalty.dtype == clip.pairs.u.dtype == kept
    assert penalty.item() == pytest.approx(expected.item(), rel=tolerance)
    assert clip.pairs.age.tolist() == [1] * 8
    if dtype != torch.bfloat16:
        torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=0, atol=1e-2)


@pytest.mark.parametrize("training", [True, False], ids=["climbing", "measuring"])
def test_autocast_does_not_touch_the_pairs_own_pass(training):
    model, plain, cast = tanh_net(3, 16, 2), small_clip().train(training), small_clip().train(training)
    expected = plain(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = cast(model)
    assert torch.equal(penalty, expected)
    assert torch.equal(cast.pairs.u, plain.pairs.u)


def test_joint_under_autocast_gives_the_pairs_a_float32_pass_of_their_own():
    model, clip, x = tanh_net(3, 16, 2), small_clip(renew=0), inputs(16, 3)
    before = clip.pairs.u.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, penalty = clip.joint(model, x)
        loss = output.float().square().mean() + penalty
    loss.backward()
    assert output.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    assert penalty.item() == measured(clip, model).item()
    assert bool(torch.isfinite(clip.pairs.u).all())
    assert not torch.equal(clip.pairs.u, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["lambda", "function", "method", "nested", "compiled from functions"])
def test_any_function_of_one_tensor_is_a_model(kind, form):
    net = tanh_net(3, 16, 2)

    def function(x: Tensor) -> Tensor:
        return net(x)

    model = {
        "lambda": lambda x: net(x),
        "function": function,
        "method": net.forward,
        "nested": nn.Sequential(nn.Sequential(net[0], nn.Sequential(net[1])), net[2]),
        "compiled from functions": torch.tanh,
    }[kind]
    clip = small_clip()
    penalty = penalty_of(clip, form, model, inputs(16, 3).requires_grad_())
    assert penalty > 0
    assert clip.pairs.age.tolist() == [1] * 8


# Errors


@pytest.mark.parametrize("form", FORMS)
def test_a_model_with_several_outputs_is_refused(form):
    message = (
        "expected a model with one tensor out, got tuple: "
        "wrap it in a module whose forward returns the tensor that matters"
    )

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        penalty_of(small_clip(), form, Pair(), inputs(16, 3))


@pytest.mark.parametrize("form", FORMS)
def test_a_function_with_several_outputs_is_refused(form):
    with pytest.raises(TypeError, match="expected a model with one tensor out, got tuple: wrap it in a module"):
        penalty_of(small_clip(), form, lambda x: (x, x), inputs(16, 3))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(lambda x: x.sum(), "()"), (lambda x: x[:4], "(4, 3)")],
    ids=["scalar", "too few"],
)
def test_a_model_without_one_output_per_input_is_refused(model, shape):
    message = f"expected one output per input, (16, *output), got shape {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_clip()(model)


@pytest.mark.parametrize("kind", ["no_grad", "detach", "detached features"])
def test_a_model_that_does_not_pass_gradients_to_its_input_is_refused(kind):
    message = (
        "the model's output does not depend differentiably on its input, so pairs cannot climb: "
        "look for torch.no_grad(), .detach() or integer operations inside the model"
    )
    net = tanh_net(3, 16, 2)
    model = {
        "no_grad": torch.no_grad()(lambda x: net(x)),
        "detach": lambda x: net(x).detach(),
        "detached features": lambda x: net[2](net[:2](x).detach()),
    }[kind]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_clip()(model)


def test_joint_refuses_inputs_of_another_shape():
    message = "x: expected inputs of shape (3,) as the pairs, got (4,)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_clip().joint(nn.Linear(4, 2), inputs(16, 4))


_NORM = "expected 1, 2, inf or a callable from differences (B, *shape) to norms (B,), got"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1}, "lam: expected a finite number of at least 0, got -0.1"),
        ({"lam": math.nan}, "lam: expected a finite number of at least 0, got nan"),
        ({"lam": math.inf}, "lam: expected a finite number of at least 0, got inf"),
        ({"aggregate": "sum"}, "aggregate: expected one of max, softmax, mean, got 'sum'"),
        ({"every": 0}, "every: expected 1 or more, got 0"),
        ({"norm_in": 3}, f"norm_in: {_NORM} 3"),
        ({"norm_out": "2"}, f"norm_out: {_NORM} '2'"),
    ],
    ids=lambda value: "-".join(f"{name}={value[name]}" for name in value) if isinstance(value, dict) else "",
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CLIP(PairSet(inputs(8, 3)), **options)


def test_pairs_must_be_a_pair_set():
    with pytest.raises(TypeError, match=r"^pairs: expected a PairSet, got Tensor: cheaplip\.PairSet\(x\) makes one$"):
        CLIP(inputs(8, 3))


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="agregate"):
        CLIP(PairSet(inputs(8, 3)), agregate="max")


# The warning about a missing backward pass


WARNING = (
    "20 calls of clip.joint and no backward pass through the penalty, so pairs never moved: "
    "call loss.backward() on a loss that contains the penalty, or use clip(model)"
)


def test_twenty_joint_calls_without_a_backward_pass_warn_once():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(19):
            clip.joint(model, x)
        assert not caught
        for _ in range(30):
            clip.joint(model, x)
    assert [(warning.category, str(warning.message)) for warning in caught] == [(CheaplipWarning, WARNING)]


def test_the_warning_points_at_the_caller():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for _ in range(19):
        clip.joint(model, x)
    with pytest.warns(CheaplipWarning, match=f"^{re.escape(WARNING)}$") as caught:
        clip.joint(model, x)
    assert caught[0].filename == __file__


def test_a_backward_pass_resets_the_count():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for _ in range(3):
        for _ in range(18):
            clip.joint(model, x)
        penalty_of(clip, "shared pass", model, x)


@pytest.mark.parametrize("context", ["eval mode", "no_grad"])
def test_calls_that_only_measure_do_not_warn(context):
    model, clip, x = tanh_net(3, 16, 2), small_clip().train(context != "eval mode"), inputs(16, 3)
    with torch.set_grad_enabled(context != "no_grad"):
        for _ in range(25):
            clip.joint(model, x)


# State


def test_state_is_in_buffers_alone():
    clip = small_clip(domain=Box(0.0, 1.0))
    assert not list(clip.parameters())
    assert dict(clip.named_buffers()).keys() >= {"lam", "largest", "pairs.u", "pairs.v", "pairs.age", "pairs.scale"}


def test_the_model_is_not_part_of_the_penalty():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for form in FORMS:
        penalty_of(clip, form, model, x)
    assert not list(clip.parameters())
    assert model not in list(clip.modules())


def test_state_dict_holds_everything_that_changes():
    keys = small_clip().state_dict().keys()
    pairs = {f"pairs.{name}" for name in ("u", "v", "age", "scale", "_extra_state")}
    assert keys == {"lam", "largest", "_extra_state"} | pairs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", ["noise", "data", "batch", "uniform"])
def test_resuming_is_bit_identical(start, form, tmp_path):
    def build():
        clip = small_clip(start=start, domain=Box(0.0, 1.0), grace=2, renew=2, every=3)
        model = tanh_net(3, 16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return {"clip": clip, "model": model, "optimizer": optimizer, "control": DiscrepancyPrinciple(clip, 0.9)}

    def train(run, steps):
        for step in steps:
            x = inputs(16, 3, seed=step)
            run["optimizer"].zero_grad()
            clip, model = run["clip"], run["model"]
            output, penalty = (model(x), clip(model)) if form == "own pass" else clip.joint(model, x)
            (output.square().mean() + penalty).backward()
            run["optimizer"].step()
            run["control"].step(0.8 + 0.02 * (step % 11))

    one, other = build(), build()
    train(one, range(10))
    torch.save({name: part.state_dict() for name, part in one.items()}, tmp_path / "state.pt")
    train(one, range(10, 20))
    for name, state in torch.load(tmp_path / "state.pt").items():
        other[name].load_state_dict(state)
    train(other, range(10, 20))
    for part in ("clip", "model", "control"):
        state, wanted = other[part].state_dict(), one[part].state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted), part


def test_the_count_of_calls_survives_a_checkpoint():
    model, one, other = tanh_net(3, 16, 2), small_clip(every=3), small_clip(every=3)
    one(model)
    other.load_state_dict(one.state_dict())
    assert [other(model).item() > 0 for _ in range(4)] == [False, False, True, False]


def test_to_converts_penalty_and_pairs():
    clip = small_clip().to(torch.float64)
    model = tanh_net(3, 16, 2).double()
    assert clip(model).dtype == clip.lam.dtype == clip.largest.dtype == torch.float64


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_run(form):
    runs = []
    for _ in range(2):
        model, clip = tanh_net(3, 16, 2), small_clip(grace=1, renew=2)
        for step in range(4):
            penalty_of(clip, form, model, inputs(16, 3, seed=step))
        runs.append(clip.pairs.u)
    assert torch.equal(*runs)


def test_repr_shows_the_options():
    assert "aggregate='max', every=2, norm_in=1.0, norm_out=inf" in repr(
        small_clip(aggregate="max", every=2, norm_in=1, norm_out=math.inf)
    )


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda clip: pickle.loads(pickle.dumps(clip))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_as_the_original_would(duplicate):
    model, clip = tanh_net(3, 8, 2), small_clip()
    output, penalty = clip.joint(model, inputs(16, 3))
    (output.sum() + penalty).backward()
    other = duplicate(clip)
    assert other(model).item() == clip(model).item()
    assert torch.equal(other.pairs.u, clip.pairs.u)
