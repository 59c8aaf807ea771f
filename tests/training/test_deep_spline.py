"""``--method deep-spline``: trainable activations, their constant, what is penalised, and what is refused."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from cheaplip import bracket
from cheaplip.errors import ConfigError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import load_run
from cheaplip.training import TrainConfig, train
from cheaplip.training.loop import Training
from cheaplip.training.methods.constraints.spline import LinearSpline, replace_activations_
from penalties import seeded
from training_runs import toy_data

QUICK = TrainConfig(
    data="toy", method="deep-spline", model="mlp:8", epochs=2, batch_size=6, target=0.9, probe=0, search=4
)


def hat():
    """A channel that is 0 but for a hat of height 2 between −0.5 and 0.5, and one that falls by 1 everywhere."""
    spline = LinearSpline(2, torch.zeros_like)
    with torch.no_grad():
        spline.offset[0], spline.slope[0] = 2.0, 4.0  # at 0, and to the left of it
        spline.bends[0, 6:9] = torch.tensor([4.0, -8.0, 4.0])  # at −0.5, 0 and 0.5
        spline.slope[1] = -1.0
    return spline


def test_values_between_knots_are_on_a_line_and_beyond_them_too():
    x = torch.tensor([[0.25, 9.0], [-0.5, -9.0], [0.0, 0.3]])
    assert hat()(x).tolist() == [[1.0, -9.0], [0.0, 9.0], [2.0, pytest.approx(-0.3)]]


def test_channels_of_images_have_their_own_functions():
    x = torch.full((1, 2, 3, 3), 0.25)
    found = hat()(x)
    assert torch.equal(found[0, 0], torch.full((3, 3), 1.0))
    assert torch.equal(found[0, 1], torch.full((3, 3), -0.25))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (torch.zeros_like, 0.0),
        (torch.relu, 1 + 1),  # one change of slope by 1; σ(1) = 1
        (torch.abs, 2 + 1),
        (lambda x: x, 0 + 1),
        (lambda x: 3 - 2 * x, 0 + 3 + 1),
    ],
    ids=["zero", "relu", "abs", "identity", "line"],
)
def test_the_variation_is_that_of_known_functions(activation, expected):
    assert LinearSpline(2, activation).variation().item() == pytest.approx(2 * expected)


def test_no_slope_exceeds_the_variation():
    spline = LinearSpline(3, torch.relu)
    with torch.no_grad():
        spline.bends.normal_(generator=torch.Generator().manual_seed(0))
    assert 1 < spline.slopes().abs().max() <= spline.variation()


def test_gradients_with_respect_to_inputs_are_slopes():
    x = torch.tensor([[0.25, 1.0], [-0.25, 7.0], [1.0, -7.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(hat()(x).sum(), x)
    assert gradient.tolist() == [[-4.0, -1.0], [4.0, -1.0], [0.0, -1.0]]


def test_nan_stays_nan():
    assert hat()(torch.tensor([[torch.nan, 1.0]])).isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("norm", [1, 2, float("inf")])
def test_the_bracket_of_a_spline_is_its_largest_slope(norm):
    b = bracket(hat(), shape=(2,), norm=norm, steps=5)
    assert b.upper == pytest.approx(4.0, rel=1e-9)
    assert 3.9 < b.lower <= 4.0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU])
def test_a_spline_starts_as_the_activation_that_it_replaces(activation):
    def build():
        return nn.Sequential(nn.Conv2d(1, 2, 3), activation(), nn.Flatten(), nn.Linear(32, 4), activation())

    network, replaced = seeded(build), seeded(build)
    assert replace_activations_(replaced, (1, 6, 6)) == 2
    assert [len(module.bends) for module in replaced.modules() if isinstance(module, LinearSpline)] == [2, 4]
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(replaced(x), network(x), rtol=0, atol=0.05)


def test_weights_and_variation_are_penalised_together():
    training = Training(QUICK, toy_data())
    network, method = training.inner, training.method
    x, y = training.data.train
    total, fit, _ = method.losses(network, x, y)
    weights = network[1].weight.square().sum() + network[3].weight.square().sum()
    expected = method.penalty.lam * (weights + 8 * 2)  # 8 channels, each a ReLU
    assert (total - fit).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_variation_falls_with_a_large_weight():
    training = Training(dataclasses.replace(QUICK, lam=0.1, target=None, epochs=3), toy_data())
    spline = training.inner[2]
    before = spline.variation().item()
    for _ in range(3):
        training.run_epoch(lambda: False)
        training.end_epoch()
    assert spline.variation().item() < 0.8 * before


def test_a_run_is_loaded_with_its_splines(tmp_path):
    data, folder = toy_data(), RunFolder(tmp_path / "run")
    metrics = train(QUICK, data, folder)
    loaded = load_run(folder, data)
    spline = loaded.model[2]
    assert isinstance(spline, LinearSpline)
    assert not torch.equal(spline.bends, LinearSpline(8, torch.relu).bends)
    b = bracket(loaded.model, domain=data.domain, shape=data.shape, steps=5)
    assert metrics["lipschitz"]["lower"] <= b.upper < float("inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "module:net"}, "deep-spline replaces the activations of models by name, such as mlp:200,80 or cnn"),
        ({"model": "linear"}, "got --model linear: name one of these, or use another method"),
        ({"final_activation": "sigmoid"}, "final_activation: expected none with --method deep-spline, got sigmoid"),
    ],
    ids=["own model", "linear", "final activation"],
)
def test_what_has_no_activations_to_replace_is_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(QUICK, **options)
    assert dataclasses.replace(QUICK, **options, method="plain").method == "plain"
