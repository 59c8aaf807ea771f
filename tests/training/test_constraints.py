"""Layers and losses that bound the Lipschitz constant: known answers, and the package's own proof of them."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn

from cheaplip import UnsupportedLayerError, bracket
from cheaplip.data import load
from cheaplip.errors import ConfigError, Interrupted
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import load_run
from cheaplip.training import TrainConfig
from cheaplip.training.methods.constraints.groupsort import GroupSort, hkr, lse_hkr
from cheaplip.training.methods.constraints.lipschitz_margin import LipschitzMargin, NormProduct, gloro, margin_logits
from cheaplip.training.methods.constraints.orthogonal import OrthogonalLayers
from cheaplip.training.models import MaxMin, build
from cheaplip.training.run import train
from networks import Block, mlp
from training_problems import descend, setting
from training_runs import QUICK, stop_after, timeless


def norms(layers):
    return [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer, _ in layers.layers]


def test_weights_become_orthogonal():
    model = nn.Sequential(nn.Linear(6, 4), MaxMin(), nn.Linear(4, 9))
    OrthogonalLayers(model, (6,))
    torch.testing.assert_close(model[0].weight @ model[0].weight.T, torch.eye(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(model[2].weight.T @ model[2].weight, torch.eye(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("factor", [0.1, 1.5, 5.0, 1e4], ids=str)
def test_one_iteration_brings_every_weight_to_a_norm_of_at_most_1(factor):
    model = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.Flatten(), nn.Linear(16, 7))
    layers = OrthogonalLayers(model, (2, 5, 5))
    torch.manual_seed(0)
    with torch.no_grad():
        for layer, _ in layers.layers:
            layer.weight.normal_(std=factor)
    layers.orthogonalise_()
    limits = [scale * (1 + 1e-5) for _, scale in layers.layers]
    assert all(0 < norm <= limit for norm, limit in zip(norms(layers), limits, strict=True))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param(nn.Conv2d(2, 4, 3, padding=1), (2, 6, 6), id="overlapping"),
        pytest.param(nn.Conv2d(2, 4, 4, stride=2, padding=1), (2, 8, 8), id="strided"),
        pytest.param(nn.Conv2d(2, 6, 2, stride=2), (2, 6, 6), id="tiles"),
        pytest.param(nn.Conv2d(4, 4, 3, dilation=2, padding=2, groups=2), (4, 7, 7), id="dilated-in-groups"),
        pytest.param(nn.Conv1d(2, 4, 3, padding=1), (2, 9), id="signal"),
        pytest.param(nn.Linear(5, 3), (5,), id="linear"),
    ],
)
def test_a_layer_is_1_lipschitz_by_the_package_s_own_proof(layer, shape):
    OrthogonalLayers(layer, shape)
    found = bracket(layer, shape=shape, seconds=0.0)
    assert 0 < found.lower <= found.upper <= 1 + 1e-4


@pytest.mark.parametrize("spec", ["mlp:8,6", "cnn", "2c2f", "4c3f"])
def test_networks_by_name_can_be_1_lipschitz(spec):
    model = build(spec, (1, 6, 6), 3, activation="maxmin")
    OrthogonalLayers(model, (1, 6, 6))
    assert bracket(model.eval(), shape=(1, 6, 6), seconds=0.0).upper <= 1 + 1e-4


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        pytest.param(
            build("resnet:8,2", (1, 4, 4), 3), (1, 4, 4), "got '1' (BatchNorm2d): take mlp:WIDTHS", id="batch-norm"
        ),
        pytest.param(nn.Sequential(Block(4), nn.Linear(4, 2)), (4,), "got a product of norms of 2", id="residual"),
    ],
)
def test_layers_that_cannot_be_kept_1_lipschitz_are_named(model, shape, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        OrthogonalLayers(model, shape)
    assert "\n" not in str(refusal.value)


LOGITS, LABELS = torch.tensor([[3.0, -1.0], [0.5, -0.5], [-2.0, 2.0]]), torch.tensor([0, 0, 1])


def test_the_hinge_of_hkr_is_on_every_logit():
    outputs, y = torch.tensor([[0.25, -2.0, 1.0]]), torch.tensor([0])
    # m/2 = 1: the true class misses it by 0.75, counted twice; the others by 0 and 2
    assert hkr(outputs, y, torch.tensor(2.0), 1.0).item() == pytest.approx((2 * 0.75 + 0 + 2) / 3)


def test_the_other_term_of_hkr_is_the_distance_of_the_class_means():
    first, second = (3.0 + 0.5) / 2 - -2.0, 2.0 - (-1.0 + -0.5) / 2
    assert hkr(LOGITS, LABELS, torch.tensor(1.0), 0.0).item() == pytest.approx(-(first + second) / 2)


def test_hkr_of_a_batch_without_a_class_is_finite():
    assert math.isfinite(hkr(LOGITS, torch.zeros(3, dtype=torch.long), torch.tensor(1.0), 0.5).item())


def test_lse_hkr_with_two_classes_has_no_soft_maximum():
    lead, hinge = (4.0 + 1.0 + 4.0) / 3, (0.0 + 1.0 + 0.0) / 3  # of the second: 1 − 0.5, and 1 − 0.5
    assert lse_hkr(LOGITS, LABELS, torch.tensor(2.0), 0.75).item() == pytest.approx(0.75 * hinge - 0.25 * lead)


def test_the_soft_maximum_of_lse_hkr_is_at_most_half_a_margin_too_large():
    outputs, y, margin = torch.tensor([[0.0, 5.0, 5.0, 5.0]]), torch.tensor([0]), torch.tensor(2.0)
    assert lse_hkr(outputs, y, margin, 0.0).item() == pytest.approx(5.0 + 1.0)


@pytest.fixture
def linear():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
        model.bias.zero_()
    return model


APART = torch.tensor([[0.0, 5.0, 1.0], [5.0, 0.0, math.sqrt(18)], [1.0, math.sqrt(18), 0.0]])


def test_the_constants_of_a_linear_model_are_the_distances_of_its_rows(linear):
    product = NormProduct(linear, (2,))
    torch.testing.assert_close(product.of_pairs().float(), APART)
    assert product().item() == pytest.approx(torch.linalg.matrix_norm(linear.weight, 2).item())


def test_behind_other_layers_the_constants_grow_by_their_norms(linear):
    first = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.diag(torch.tensor([2.0, 0.5])))
    torch.testing.assert_close(NormProduct(nn.Sequential(first, nn.ReLU(), linear), (2,)).of_pairs().float(), 2 * APART)


def test_the_extra_class_is_the_best_rival_and_its_reach(linear):
    z = torch.tensor([[2.0, 0.0, 1.5], [0.0, 9.0, 1.0]])
    found = gloro(z, torch.tensor([2, 2]), 0.1 * APART)
    assert torch.equal(found[:, :3], z)
    torch.testing.assert_close(found[:, 3], torch.tensor([max(0.0 + 0.5, 1.5 + 0.1), 1.0 + 0.1 * math.sqrt(18)]))


def test_rivals_of_the_true_class_get_a_head_start():
    z = torch.tensor([[2.0, 0.0, 1.5]])
    torch.testing.assert_close(margin_logits(z, torch.tensor([2]), 0.1 * APART), z + 0.1 * APART[2])


@pytest.mark.parametrize("form", ["gloro", "tsuzuku"])
def test_margin_training_has_a_gradient_for_equal_rows(form, linear):
    x, y = torch.rand(8, 2), torch.arange(8) % 3
    with torch.no_grad():
        linear.weight[2] = linear.weight[1]
    method = LipschitzMargin(setting(linear, x, y, margin_form=form))
    method.losses(linear, x, y).total.backward()
    assert torch.isfinite(linear.weight.grad).all()


def test_margin_training_needs_a_linear_layer_at_the_end():
    with pytest.raises(UnsupportedLayerError, match="expected a linear layer at the end of the model") as refusal:
        NormProduct(mlp(4, 4, 3).append(nn.ReLU()), (4,))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "groupsort", "hkr": "hkr"},
        {"method": "groupsort", "hkr": "lse"},
        {"method": "lipschitz-margin", "margin_form": "gloro"},
        {"method": "lipschitz-margin", "margin_form": "tsuzuku"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_its_own_quantity_falls(options):
    torch.manual_seed(0)
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    x = x + 2.0 * y.unsqueeze(1)
    model = nn.Sequential(nn.Linear(4, 16), MaxMin(), nn.Linear(16, 2))
    kind = {"groupsort": GroupSort, "lipschitz-margin": LipschitzMargin}[options["method"]]
    losses = descend(kind(setting(model, x, y, margin=0.5, **options)), model, x, y, steps=40, lr=0.05)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("method", ["groupsort", "lipschitz-margin"])
def test_an_interrupted_run_continues_bit_for_bit(method, tmp_path):
    digits = load("digits")
    config = dataclasses.replace(QUICK, method=method, activation=None, epochs=2, probe=0, search=4)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train(config, digits, whole)
    with pytest.raises(Interrupted):
        train(config, digits, cut, stop=stop_after(50))  # in the second epoch
    train(config, digits, cut, resume=True)
    assert cut.read_bytes("model.safetensors") == whole.read_bytes("model.safetensors")
    assert timeless(cut.history()) == timeless(whole.history())
    assert whole.history()[-1]["lam"] > 0
    found = bracket(load_run(whole, digits).model, domain=digits.domain, shape=digits.shape, seconds=0.0)
    assert found.upper <= (1 + 1e-4 if method == "groupsort" else whole.history()[-1]["bound"] * (1 + 1e-4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hkr": "kr"}, "hkr: expected one of hkr, lse, got 'kr'"),
        ({"hkr_alpha": 1.5}, "hkr_alpha: expected a number from 0 to 1, got 1.5"),
        ({"hkr_alpha": math.nan}, "hkr_alpha: expected a number from 0 to 1, got nan"),
        ({"margin_form": "glora"}, "margin_form: expected one of gloro, tsuzuku, got 'glora'; did you mean 'gloro'?"),
        ({"margin": -1.0}, "margin: expected a positive number, got -1.0"),
        ({"method": "groupsort", "task": "regression"}, "method: groupsort does not apply to regression"),
        ({"method": "lipschitz-margin", "task": "regression"}, "method: lipschitz-margin does not apply to regression"),
    ],
)
def test_bad_options_are_refused_on_one_line(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as refusal:
        TrainConfig(data="digits", **options)
    assert "\n" not in str(refusal.value)
