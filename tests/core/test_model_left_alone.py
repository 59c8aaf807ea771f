"""A model, its gradients and the global generator are left as they were; dropout is off for pairs."""

import gc
import re
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from cheaplip import CLIP, BatchDependentLayerError, PairSet
from penalties import (
    FORMS,
    REMEDY,
    BatchNormModel,
    Centre,
    DropoutAcrossTime,
    FunctionalDropout,
    dropout_net,
    gradients,
    inputs,
    measured,
    penalty_of,
    seeded,
    small_clip,
    tanh_net,
)


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
