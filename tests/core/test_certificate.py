import io
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import Ball, Box, Certified, bracket, certified_accuracy, certified_interval, certified_radius
from cheaplip.certificate import certified_predictions
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bracket import pairwise


def affine(rows, bias=None):
    model = nn.Linear(len(rows[0]), len(rows)).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(rows))
        model.bias.copy_(torch.tensor(bias or [0.0] * len(rows)))
    return model


def absolute_value():
    """Logits (|x| − 1, 1 − |x|)."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    for layer, weight, bias in ((0, [[1.0], [-1.0]], [0.0, 0.0]), (2, [[1.0, 1.0], [-1.0, -1.0]], [-1.0, 1.0])):
        with torch.no_grad():
            model[layer].weight.copy_(torch.tensor(weight))
            model[layer].bias.copy_(torch.tensor(bias))
    return model


def network(seed=0, inputs=6, classes=4, activation=nn.ReLU):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 12), activation(), nn.Linear(12, 8), activation(), nn.Linear(8, classes))


def quick(model, domain=None, shape=None, **options):
    return bracket(model, domain, shape, steps=5, seconds=0.3, **options)


@pytest.fixture(scope="module")
def problem():
    model, domain = network(), Box(0.0, 1.0)
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    return model, x, quick(model, domain, (6,))


def test_two_affine_logits_are_certified_up_to_their_line():
    model = affine([[3.0, 4.0], [-3.0, -4.0]], [1.0, -1.0])
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).double()
    exact = (x @ torch.tensor([3.0, 4.0], dtype=torch.float64) + 1).abs() / 5
    radius = certified_radius(model, x, quick(model, shape=(2,)))
    assert radius.dtype == torch.float64
    assert bool((radius <= exact).all())
    torch.testing.assert_close(radius, exact, rtol=1e-9, atol=1e-12)


def test_the_absolute_value_is_certified_up_to_its_kink_on_either_side():
    model = absolute_value()
    x = torch.tensor([[3.0], [-3.0], [0.25], [1.5]])
    radius = certified_radius(model, x, quick(model, shape=(1,)))
    torch.testing.assert_close(radius, torch.tensor([2.0, 2.0, 0.75, 0.5]).double(), rtol=1e-3, atol=0.0)


def test_bounds_of_pairs_make_an_affine_map_of_many_classes_exact():
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(5, 3, generator=generator).double(), torch.randn(40, 3, generator=generator).double()
    model = affine(weight.tolist())
    logits = x @ weight.T
    own = logits.argmax(1)
    exact = (
        torch.stack(
            [
                (logits[:, i] - logits[:, j]) / (weight[i] - weight[j]).norm()
                for i in range(5)
                for j in range(5)
                if i != j
            ]
        )
        .reshape(5, 4, 40)[own, :, torch.arange(40)]
        .amin(1)
    )
    b = quick(model, shape=(3,))
    radius = certified_radius(model, x, b, pairs=pairwise(model, shape=(3,)))
    assert bool((radius <= exact).all())
    torch.testing.assert_close(radius, exact, rtol=1e-9, atol=1e-12)
    assert bool((certified_radius(model, x, b) <= radius).all())


@pytest.mark.parametrize("pairs", [torch.zeros(3, 4), -torch.ones(4, 4), torch.full((4, 4), torch.nan)], ids=str)
def test_bounds_of_pairs_are_checked(pairs, problem):
    model, x, b = problem
    with pytest.raises(ValueError, match=re.escape("pairs: expected bounds of 0 or more, shape (4, 4), got shape")):
        certified_radius(model, x, b, pairs=pairs)


def test_a_tie_has_radius_zero():
    model = absolute_value()
    assert certified_radius(model, torch.tensor([[1.0], [-1.0]]), quick(model, shape=(1,))).tolist() == [0.0, 0.0]


def test_a_constant_function_is_certified_everywhere():
    model = affine([[0.0], [0.0]], [1.0, 0.0])
    assert certified_radius(model, torch.tensor([[5.0]]), quick(model, shape=(1,))).item() == math.inf


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid]))
def test_no_perturbation_below_the_radius_changes_the_class(seed, activation):
    model = network(seed, activation=activation).double()
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(20, 6, generator=generator).double()
    radius = certified_radius(model, x, quick(model, shape=(6,)))
    direction = nn.functional.normalize(torch.randn(50, 20, 6, generator=generator).double(), dim=2)
    moved = x + 0.999999 * radius[:, None] * direction
    assert torch.equal(model(moved).argmax(2), model(x).argmax(1).expand(50, 20))
    assert bool((radius > 0).any())


def test_no_gradient_attack_below_the_radius_changes_the_class(problem):
    model, x, _ = problem
    exact = network().double()
    radius = certified_radius(model, x, quick(model, shape=(6,)))
    y, delta = exact(x.double()).argmax(1), torch.zeros_like(x).double()
    for _ in range(50):
        at = (x + delta).requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(exact(at), y, reduction="sum"), at)
        delta = nn.functional.normalize(delta + 0.2 * radius[:, None] * nn.functional.normalize(gradient))
        delta *= 0.999999 * radius[:, None]
        assert torch.equal(exact(x + delta).argmax(1), y)


def test_a_ball_ends_the_radius_at_its_border():
    model = affine([[3.0, 4.0], [-3.0, -4.0]])
    b = quick(model, Ball(torch.tensor([3.0, 4.0]), 1.0))
    x = torch.tensor([[3.0, 4.0], [3.0, 4.75]])
    torch.testing.assert_close(certified_radius(model, x, b), torch.tensor([1.0, 0.25]).double(), rtol=1e-9, atol=1e-12)


def test_accuracy_counts_what_is_right_and_certain():
    model = affine([[1.0], [-1.0]])
    batches = [
        (torch.tensor([[0.5], [-2.0]]), torch.tensor([0, 1])),
        (torch.tensor([[3.0], [4.0]]), torch.tensor([0, 1])),
    ]
    b = quick(model, shape=(1,))
    assert [certified_accuracy(model, batches, b, epsilon) for epsilon in (0, 1.0, 2.5, 9.0)] == [0.75, 0.5, 0.25, 0.0]


def test_intervals_hold_the_outputs_and_are_exact_for_an_affine_map(problem):
    line = affine([[3.0, 4.0]], [1.0])
    low, high = certified_interval(line, torch.zeros(1, 2), quick(line, shape=(2,)), 0.2)
    assert (low.item(), high.item()) == (pytest.approx(0.0, abs=1e-9), pytest.approx(2.0, abs=1e-9))
    assert low.item() <= 0.0 < 2.0 <= high.item()
    model, x, b = problem
    low, high = certified_interval(model, x, b, 0.1)
    direction = torch.randn(100, *x.shape, generator=torch.Generator().manual_seed(2)).double()
    moved = Box(0.0, 1.0).project(x + 0.1 * nn.functional.normalize(direction, dim=2))
    outputs = network().double()(moved)
    assert low.shape == (50, 4)
    assert bool(((low <= outputs) & (outputs <= high)).all())


def test_the_model_is_left_as_it_was(problem):
    model, x, b = problem
    model.train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    certified_radius(model, x, b)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_certified_says_what_the_functions_say(problem):
    model, x, b = problem
    prediction, radius = Certified(model, b)(x)
    assert torch.equal(prediction, network().double()(x.double()).argmax(1))
    assert torch.equal(radius, certified_radius(model, x, b))
    assert certified_accuracy(model, [(x, prediction)], b, 0.01) == float((radius > 0.01).double().mean())


def test_predictions_and_radii_come_together(problem):
    model, x, b = problem
    prediction, radius = certified_predictions(model, x, b)
    assert torch.equal(prediction, network().double()(x.double()).argmax(1))
    assert torch.equal(radius, certified_radius(model, x, b))
    few = certified_predictions(model, x, b, batch=7)
    assert torch.equal(few[0], prediction)
    torch.testing.assert_close(few[1], radius, rtol=1e-9, atol=1e-12)


def test_predictions_outside_the_domain_have_radius_zero(problem):
    model, x, b = problem
    prediction, radius = certified_predictions(model, torch.cat([x, x + 1]), b)
    assert prediction.shape == radius.shape == (100,)
    assert bool((radius[:50] > 0).any())
    assert not radius[50:].any()


def test_certified_abstains_outside_the_domain_and_keeps_its_own_weights(problem):
    model, x, b = problem
    model = network()
    served = Certified(model, b)
    before = served(x)[1]
    outside = x.clone()
    outside[0, 0], outside[1, 0] = 1.5, torch.nan
    radius = served(outside)[1]
    assert radius[:2].tolist() == [0.0, 0.0]
    assert torch.equal(radius[2:], before[2:])
    nn.init.zeros_(model[0].weight)
    assert torch.equal(served(x)[1], before)
    assert not any(p.requires_grad for p in served.parameters())


def test_certified_refuses_converted_weights(problem):
    model, x, b = problem
    with pytest.raises(TypeError, match=re.escape("got them converted to torch.float16: convert the model first")):
        Certified(model, b).half()(x.half())


@pytest.mark.filterwarnings("ignore:(Attempted to insert a get_attr|Node lifted_tensor).*:UserWarning")  # torch 2.6
def test_certified_exports_with_both_outputs(problem):
    model, x, b = problem
    served = Certified(model, b).eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(served, (x[:3],), dynamic_shapes=(batch,), strict=False)
    for expected, got in zip(served(x), program.module()(x), strict=True):
        assert torch.equal(expected, got)


def convolutional():
    torch.manual_seed(3)
    layers = nn.Conv2d(2, 4, (3, 2), padding=1, stride=(2, 1), groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(24, 3)).eval()
    x = torch.rand(20, 2, 8, 6)
    return model, x, quick(model, Box(0.0, 1.0), x=x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["dense", pytest.param("convolutional", marks=pytest.mark.slow)])
def test_certified_exports_to_onnx(kind, problem):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    model, x, b = problem if kind == "dense" else convolutional()
    served, file = Certified(model, b).eval(), io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.onnx.export(
        served,
        (x[:3],),
        output_names=["prediction", "radius"],
        dynamic_shapes=(batch,),
        dynamo=True,
        verbose=False,
    ).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    prediction, radius = session.run(["prediction", "radius"], {session.get_inputs()[0].name: x.numpy()})
    assert prediction.tolist() == served(x)[0].tolist()
    assert bool((served(x)[1] > 0).any())
    torch.testing.assert_close(torch.from_numpy(radius), served(x)[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 6, 3, padding=1),
        nn.Conv2d(2, 6, (3, 2), stride=(2, 3), padding=(0, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"),
        nn.Conv1d(2, 4, 3, stride=2, padding=1),
    ],
    ids=["plain", "every-option", "circular", "one-dimensional"],
)
def test_a_convolution_in_onnx_is_the_same_map(layer, monkeypatch):
    shape = (2, 9, 8)[: layer.weight.dim() - 1]
    (link,) = read(layer, shape).links
    low = torch.randn(5, *shape, dtype=torch.float64)
    expected = link.operation.interval((low, low + 0.1))
    monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)
    for end, same in zip(link.operation.interval((low, low + 0.1)), expected, strict=True):
        torch.testing.assert_close(end, same, rtol=1e-12, atol=1e-12)


class Odd(nn.Module):
    def forward(self, x):
        return torch.sort(x, dim=1).values.cumsum(1) ** 3


def test_without_a_finite_bound_the_layer_is_named():
    model = nn.Sequential(nn.Linear(3, 3), Odd())
    b = quick(model, shape=(3,))
    with pytest.raises(ValueError, match=r"nothing is certified, for the bracket has no finite upper bound: .*'1'"):
        certified_radius(model, torch.zeros(1, 3), b)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x: x + 1,
            ValueError,
            "x: expected inputs inside Box(0, 1), the bracket's domain, got",
        ),
        (lambda x: x * torch.nan, ValueError, "x: expected finite numbers, got NaN or infinity"),
        (lambda x: x.long(), TypeError, "x: expected a tensor of floating-point inputs, got torch.int64"),
        (lambda x: x[:, :3], ValueError, "x: expected inputs (B, 6), got shape (50, 3)"),
        (lambda x: x[:0], ValueError, "x: expected inputs (B, 6), got shape (0, 6)"),
        (lambda x: x[0], ValueError, "x: expected inputs (B, 6), got shape (6,)"),
    ],
    ids=["outside", "nan", "integers", "width", "empty", "no-batch"],
)
def test_inputs_that_cannot_be_certified(change, error, message, problem):
    model, x, b = problem
    for call in (
        lambda: certified_radius(model, change(x), b),
        lambda: certified_accuracy(model, [(change(x), torch.zeros(50).long())], b, 0.1),
        lambda: certified_interval(model, change(x), b, 0.1),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()


@pytest.mark.parametrize(("constant", "got"), [(5.0, "5.0"), (torch.tensor(5.0), "Tensor")], ids=["number", "tensor"])
def test_a_constant_is_no_bracket(constant, got, problem):
    model, x, _ = problem
    message = f"bracket: expected what cheaplip.bracket(model, ...) returned, a Bracket, got {got}"
    for call in (
        lambda: certified_radius(model, x, constant),
        lambda: certified_predictions(model, x, constant),
        lambda: certified_accuracy(model, [(x, torch.zeros(50).long())], constant, 0.1),
        lambda: certified_interval(model, x, constant, 0.1),
        lambda: Certified(model, constant),
    ):
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            call()


@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf, "1", True], ids=str)
def test_epsilon_is_a_finite_number(epsilon, problem):
    model, x, b = problem
    message = f"epsilon: expected a finite number of at least 0, got {epsilon!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        certified_accuracy(model, [(x, torch.zeros(50).long())], b, epsilon)
    with pytest.raises(ValueError, match=re.escape(message)):
        certified_interval(model, x, b, epsilon)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.full((50,), 4), ValueError, "labels: expected 0 to 3, got 4 to 4"),
        (torch.full((50,), -1), ValueError, "labels: expected 0 to 3, got -1 to -1"),
        (torch.zeros(50), TypeError, "labels: expected integers, got torch.float32"),
        (torch.zeros(49).long(), ValueError, "labels: expected one for each of 50 inputs, got shape (49,)"),
    ],
    ids=["high", "negative", "float", "short"],
)
def test_labels_are_classes(y, error, message, problem):
    model, x, b = problem
    with pytest.raises(error, match=re.escape(message)):
        certified_accuracy(model, [(x, y)], b, 0.1)


def test_no_batches_at_all(problem):
    model, _, b = problem
    with pytest.raises(ValueError, match="loader: expected batches of inputs and labels, got none"):
        certified_accuracy(model, iter([]), b, 0.1)


def test_a_bracket_of_another_norm_or_model(problem):
    model, x, b = problem
    with pytest.raises(ValueError, match=re.escape("bracket: expected one in norm 2, got norm inf")):
        certified_radius(model, x, quick(model, Box(0.0, 1.0), (6,), norm=math.inf))
    with pytest.raises(ValueError, match="the weights have changed since, or it is another model; bracket it again"):
        certified_radius(network(seed=1), x, b)
    with pytest.raises(ValueError, match="bracket: expected one of this model, but the model cannot be read"):
        certified_radius(network(inputs=7), x, b)


def test_one_output_is_no_classifier():
    model = affine([[1.0]])
    with pytest.raises(ValueError, match=re.escape("expected logits (B, classes) of two or more classes")):
        certified_radius(model, torch.zeros(1, 1), quick(model, shape=(1,)))


def test_an_interval_must_fit_into_the_ball():
    model = affine([[1.0]])
    b = quick(model, Ball(torch.zeros(1), 1.0))
    with pytest.raises(ValueError, match=r"epsilon: expected at most 0\.25, .* got 0\.5: bracket a larger ball"):
        certified_interval(model, torch.tensor([[0.75]]), b, 0.5)
