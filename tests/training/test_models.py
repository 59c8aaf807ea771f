"""Models by name: their sizes, their weights, and what is said of names that cannot be built."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cheaplip import bracket
from cheaplip.cli import run
from cheaplip.errors import ModelError
from cheaplip.runs.folder import RunFolder
from cheaplip.training.models import FullSort, MaxMin, build
from cheaplip.training.models.residual import ResidualBlock


@pytest.mark.parametrize(
    ("spec", "shape", "parameters"),
    [
        pytest.param("mlp:200,80", (1, 28, 28), 784 * 200 + 200 + 200 * 80 + 80 + 80 * 10 + 10, id="mlp"),
        pytest.param("linear", (7,), 7 * 10 + 10, id="linear"),
        pytest.param("cnn", (1, 28, 28), 832 + 51_264 + 3_212_288 + 10_250, id="madry-cnn"),
        pytest.param("2c2f", (1, 28, 28), 272 + 8_224 + 156_900 + 1_010, id="wong-small"),
        pytest.param(
            "4c3f", (1, 28, 28), 320 + 16_416 + 18_496 + 65_600 + 1_606_144 + 262_656 + 5_130, id="wong-large"
        ),
        pytest.param("resnet:20,16", (3, 32, 32), 269_722 + 2_560 + 192, id="resnet-20"),  # with two projections
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


@pytest.mark.parametrize("spec", ["mlp:6", "cnn", "2c2f", "4c3f", "resnet:8,4"])
@pytest.mark.parametrize("activation", ["maxmin", "groupsort"])
def test_every_family_can_sort(spec, activation):
    kind = {"maxmin": MaxMin, "groupsort": FullSort}[activation]
    assert any(isinstance(layer, kind) for layer in build(spec, (1, 4, 4), 3, activation=activation).modules())


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 3, 3)], ids=["vectors", "images"])
def test_maxmin_sorts_neighbours_and_groupsort_sorts_all(shape):
    x = torch.tensor([4.0, 3.0, 2.0, 1.0]).reshape(1, 4, *[1] * (len(shape) - 2)).expand(1, 4, *shape[2:])
    first = (0, slice(None), *[0] * (len(shape) - 2))
    assert MaxMin()(x)[first].tolist() == [3.0, 4.0, 1.0, 2.0]
    assert FullSort()(x)[first].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("activation", [MaxMin, FullSort])
def test_sorting_is_1_lipschitz_by_the_package_s_own_proof(activation):
    assert bracket(activation(), shape=(4, 3, 3), seconds=0.0).upper == pytest.approx(1.0)


def test_maxmin_refuses_an_odd_number_of_channels():
    with pytest.raises(ValueError, match="x: expected an even number of channels, to sort them in pairs, got 3"):
        MaxMin()(torch.zeros(1, 3))


@pytest.mark.parametrize("spec", ["cnn", "2c2f", "4c3f", "resnet:8,4"])
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 9, 7)], ids=["least", "odd"])
def test_images_of_any_size_from_4_by_4_fit(spec, shape):
    assert build(spec, shape, 10)(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_residual_block_adds_its_projection():
    block = ResidualBlock(2, 4, 2, nn.Identity).eval()
    with torch.no_grad():
        block.body[3].weight.zero_()  # so that the body is 0, and only the strided 1 × 1 convolution is left
        x = torch.rand(1, 2, 5, 5)
        torch.testing.assert_close(block(x), block.skip(x))
    assert block(x).shape == (1, 4, 3, 3)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.savez("images.npz", x=generator.random((60, 1, 6, 6), dtype=np.float32), y=np.arange(60) % 3)
    return [
        "train",
        "images.npz",
        "--method",
        "plain",
        "--epochs",
        "1",
        "--probe",
        "0",
        "--search",
        "2",
        "--no-measure",
    ]


@pytest.mark.parametrize(
    ("spec", "activation"),
    [
        ("mlp:6", "groupsort"),
        *((spec, "maxmin") for spec in ("mlp:6", "2c2f")),
        *(pytest.param(spec, "maxmin", marks=pytest.mark.slow) for spec in ("cnn", "4c3f", "resnet:8,2")),
    ],
)
def test_a_trained_model_is_saved_loaded_and_bracketed(spec, activation, images):
    assert run([*images, "--model", spec, "--activation", activation, "--out", "run"]) == 0
    assert run(["bracket", "run", "--seconds", "0"]) == 0
    found = RunFolder(Path("run")).read_json("metrics.json")["lipschitz"]
    assert 0 < found["lower"] <= found["upper"] < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "maxmin", "groupsort"])
@pytest.mark.parametrize("spec", ["mlp:6", "cnn", "2c2f", "4c3f", "resnet:8,4"])
def test_a_trained_model_is_exported_to_onnx(spec, activation, images):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    assert run([*images, "--model", spec, "--activation", activation, "--out", "run"]) == 0
    assert run(["export", "run", "--format", "onnx"]) == 0  # compares the outputs of the file with the model's


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
        pytest.param("mpl:20", (4,), "expected package.module:function; did you mean mlp:20?", id="letters-swapped"),
        pytest.param("ResNets:8,4", (4,), "; did you mean resnet:8,4?", id="letter-too-many"),
        pytest.param("2cf", (4,), "or package.module:function; did you mean '2c2f'?", id="letter-missing"),
        pytest.param("vgg", (4,), "unknown model 'vgg': expected mlp:WIDTHS", id="unknown"),
        pytest.param("resnet", (1, 8, 8), "model 'resnet': expected resnet:DEPTH,WIDTH", id="resnet-without-numbers"),
        pytest.param("resnet:9,16", (1, 8, 8), "with a depth of 6 n + 2, such as 8, 14 or 20", id="resnet-depth"),
        pytest.param("resnet:8,0", (1, 8, 8), "a positive width, such as resnet:20,16", id="resnet-width"),
        pytest.param("resnet:8,4", (4,), "model 'resnet:8,4': expected images (C, H, W)", id="resnet-on-a-table"),
        pytest.param("2c2f", (4,), "model '2c2f': expected images (C, H, W)", id="2c2f-on-a-table"),
        pytest.param("4c3f", (1, 3, 8), "of at least 4 by 4 pixels, got inputs of shape (1, 3, 8)", id="too-small"),
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


@pytest.mark.parametrize("spec", ["mpl:net", "vgg:16", "widest:20,10", f"{__name__}:nothing"])
def test_no_model_is_suggested_for_a_function_or_a_name_that_is_like_none(spec):
    with pytest.raises(ModelError, match=r"expected package\.module:function$"):
        build(spec, (4,), 3)


@pytest.mark.parametrize(("spec", "odd"), [("mlp:4,5", 5), ("resnet:8,3", 3)])
def test_maxmin_needs_even_widths(spec, odd):
    message = f"model '{spec}': expected even widths with --activation maxmin, which sorts in pairs, got {odd}: choose"
    with pytest.raises(ModelError, match=re.escape(message)):
        build(spec, (1, 8, 8), 3, activation="maxmin")
