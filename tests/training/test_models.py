"""Models by name: their sizes, their weights, and what is said of names that cannot be built."""

import re

import pytest
import torch
from torch import nn

from cheaplip.errors import ModelError
from cheaplip.training.models import build


@pytest.mark.parametrize(
    ("spec", "shape", "parameters"),
    [
        pytest.param("mlp:200,80", (1, 28, 28), 784 * 200 + 200 + 200 * 80 + 80 + 80 * 10 + 10, id="mlp"),
        pytest.param("linear", (7,), 7 * 10 + 10, id="linear"),
        pytest.param("cnn", (1, 28, 28), 832 + 51_264 + 3_212_288 + 10_250, id="madry-cnn"),
    ],
)
def test_known_models_have_the_published_size(spec, shape, parameters):
    model = build(spec, shape, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(3, *shape)).shape == (3, 10)


def test_logits_by_default_and_sigmoid_only_when_asked():
    x = 100 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert build("linear", (4,), 3)(x).abs().max() > 1
    squashed = build("linear", (4,), 3, final_activation="sigmoid")(x)
    assert squashed.min() >= 0
    assert squashed.max() <= 1


def test_seed_decides_the_weights_and_leaves_the_global_state_alone():
    state = torch.random.get_rng_state()
    one, same, other = (build("mlp:5", (4,), 3, seed=seed)[1].weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "softplus", "elu"])
def test_activation_is_the_one_asked_for(activation):
    names = [type(layer).__name__.lower() for layer in build("mlp:5", (4,), 3, activation=activation)]
    assert activation in names


def make_convolution(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], outputs, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def make_scalar(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 1))


not_a_function = 3


def test_own_model_by_name():
    assert build(f"{__name__}:make_convolution", (2, 8, 8), 5)(torch.zeros(1, 2, 8, 8)).shape == (1, 5)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        pytest.param("mlq:3", (4,), "cannot import 'mlq:3'", id="unknown-with-colon"),
        pytest.param("resnet", (4,), "unknown model 'resnet': expected mlp:WIDTHS", id="unknown"),
        pytest.param("mlp:", (4,), "model 'mlp:': expected positive widths", id="no-widths"),
        pytest.param("mlp:3,0", (4,), "model 'mlp:3,0': expected positive widths", id="zero-width"),
        pytest.param("mlp:a", (4,), "model 'mlp:a': expected positive widths", id="word"),
        pytest.param("cnn", (4,), "model 'cnn': expected images (C, H, W)", id="cnn-on-a-table"),
        pytest.param(
            f"{__name__}:make_scalar", (4,), "expected outputs (B, 3), one logit per class, got (2, 1)", id="(B,1)"
        ),
        pytest.param(f"{__name__}:make_convolution", (4,), "cannot take inputs of shape (B, 4)", id="shape"),
        pytest.param(f"{__name__}:nothing", (4,), "expected package.module:function", id="no-such-function"),
    ],
)
def test_bad_models_say_what_was_expected(spec, shape, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        build(spec, shape, 3)
