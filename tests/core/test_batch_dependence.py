"""Layers that mix the inputs of a batch are refused by a shared pass, and named."""

import re

import pytest
import torch
from torch import nn

from cheaplip import CLIP, BatchDependentLayerError, PairSet
from penalties import (
    REMEDY,
    Attention,
    BatchNormModel,
    Centre,
    CentreInTraining,
    FunctionalDropout,
    Recurrent,
    dropout_net,
    inputs,
    small_clip,
    tanh_net,
)


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
