import itertools
import logging
import math
import random
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cheaplip.domain import Box
from cheaplip.errors import CheaplipWarning
from cheaplip.robustness import ATTACKS, CORRUPTIONS, AttackResult, accuracy, attack, check_classifier
from cheaplip.robustness.stage import Problem, rescaled

WORST_CASE = [name for name in ATTACKS if name not in CORRUPTIONS]
SEEDED = ("noise", "pgd-sign", "pgd", "autoattack")
UNIT = Box(0.0, 1.0)

every_attack = pytest.mark.parametrize("name", ["noise", *WORST_CASE])
every_worst_case = pytest.mark.parametrize("name", WORST_CASE)


@pytest.fixture(autouse=True)
def square_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Queries allowed and shape of an image for each run of Square, which then makes 60 of them."""
    from pyautoattack.square import SquareAttack

    seen: list[tuple[int, ...]] = []
    run = SquareAttack.attack_single_run

    def run_briefly(self: SquareAttack, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((self.n_queries, *x.shape[1:]))
        self.n_queries = 60
        return run(self, x, y)

    monkeypatch.setattr(SquareAttack, "attack_single_run", run_briefly)
    return seen


def linear(classes: int = 4, features: int = 6, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(features, classes)


def network(features: int = 6, classes: int = 4) -> nn.Sequential:
    """A classifier for [0, 1]; its classes meet in the middle."""
    torch.manual_seed(1)
    first, last = nn.Linear(features, 16), nn.Linear(16, classes, bias=False)
    with torch.no_grad():
        first.bias.copy_(-first.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), last)


def labelled(model: nn.Module, *shape: int, wrong: int = 0, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Inputs in [0, 1] with the model's own labels, the first ``wrong`` of them changed."""
    torch.manual_seed(seed)
    x = torch.rand(shape)
    with torch.no_grad():
        output = model(x)
    y = output.argmax(1)
    y[:wrong] = (y[:wrong] + 1) % output.shape[1]
    return x, y


@torch.no_grad()
def distance_to_boundary(model: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """The smallest L2 perturbation that changes the class of a linear classifier."""
    logits = model(x)
    margins = logits.gather(1, y[:, None]) - logits
    slopes = (model.weight[y][:, None] - model.weight).norm(dim=2)
    return (margins / slopes).nan_to_num(nan=torch.inf).amin(1)


@torch.no_grad()
def predicted(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return model(x).argmax(1)


BOX_PER_FEATURE = Box(torch.zeros(6), torch.linspace(1.0, 2.0, 6))
BOXES = {
    "unit box": UNIT,
    "box per feature": BOX_PER_FEATURE,
    "bounded below": Box(low=0.0),
    "no bounds": Box(),
}


@pytest.mark.parametrize(
    ("name", "box"),
    [(name, box) for name in WORST_CASE for box in BOXES if (name, box) != ("autoattack", "box per feature")],
)
def test_stays_inside_the_box_and_the_ball(name: str, box: str) -> None:
    model = network()
    x, y = labelled(model, 12, 6)
    result = attack(name, model, x, y, epsilon=0.3, domain=BOXES[box])
    assert BOXES[box].contains(result.inputs)
    assert bool(((result.inputs - x).norm(dim=1) <= 0.3 * (1 + 1e-4)).all())
    assert not torch.equal(result.inputs, x)


@pytest.mark.parametrize(
    ("name", "box"), [("fgsm", "unit box"), ("fgsm", "no bounds"), ("pgd", "unit box"), ("autoattack", "unit box")]
)
def test_in_the_largest_norm_each_feature_moves_by_at_most_epsilon(name: str, box: str) -> None:
    model = network()
    x, y = labelled(model, 12, 6)
    result = attack(name, model, x, y, epsilon=8 / 255, norm=math.inf, domain=BOXES[box])
    moved = (result.inputs - x).abs().amax(1)
    assert BOXES[box].contains(result.inputs)
    assert bool((moved <= 8 / 255 * (1 + 1e-4)).all())
    assert float(moved.max()) == pytest.approx(8 / 255, rel=1e-3)
    assert float((result.inputs - x).norm(dim=1).max()) > 1.5 * 8 / 255  # outside the L2 ball


@pytest.mark.parametrize("name", ["fgsm", "pgd", "autoattack"])
def test_breaks_what_can_be_broken_of_a_linear_classifier_in_the_largest_norm(name: str) -> None:
    model = linear(2)
    x, y = labelled(model, 40, 6)
    with torch.no_grad():
        margins = model(x)[:, 0] - model(x)[:, 1]
        distance = margins.abs() / (model.weight[0] - model.weight[1]).abs().sum()
    epsilon = float(distance.median())
    result = attack(name, model, x, y, epsilon=epsilon, norm=math.inf, domain=Box(-9.0, 9.0))
    assert not bool(result.correct[distance < 0.95 * epsilon].any())
    assert bool(result.correct[distance > epsilon].all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd-sign", "noise"])
def test_inputs_of_half_precision_are_attacked_in_float32(name: str, dtype: torch.dtype) -> None:
    model = network()
    x = torch.rand(30, 6).to(dtype)
    y = predicted(model, x.float())
    result = attack(name, lambda z: model(z.float()), x, y, epsilon=0.3, domain=UNIT)
    expected = attack(name, model, x.float(), y, epsilon=0.3, domain=UNIT)
    assert result.inputs.dtype == dtype
    assert abs(result.accuracy - expected.accuracy) <= 0.1
    assert torch.equal(result.correct, predicted(model, result.inputs.float()) == y)


@every_attack
def test_correct_is_the_prediction_at_the_returned_inputs(name: str) -> None:
    model = network()
    x, y = labelled(model, 20, 6, wrong=5)
    result = attack(name, model, x, y, epsilon=0.15, domain=UNIT)
    right_before = torch.arange(20) >= 5
    assert torch.equal(result.correct, right_before & (predicted(model, result.inputs) == y))
    assert 0 < int(result.correct.sum()) < 15
    assert result.accuracy == pytest.approx(int(result.correct.sum()) / 20)
    assert torch.equal(result.inputs[:5], x[:5])


@pytest.mark.parametrize(
    ("name", "classes"),
    [("fgsm", 2), ("pgd", 2), ("autoattack", 2), ("autoattack", 3), ("autoattack", 4), ("autoattack", 12)],
)
def test_breaks_what_can_be_broken_of_a_linear_classifier(name: str, classes: int) -> None:
    model = linear(classes)
    x, y = labelled(model, 40, 6)
    distance = distance_to_boundary(model, x, y)
    epsilon = float(distance.median())
    result = attack(name, model, x, y, epsilon=epsilon, domain=Box(-9.0, 9.0))
    near = distance < 0.95 * epsilon
    assert bool(near.any())
    assert not bool(result.correct[near].any())


@pytest.mark.parametrize("classes", [2, 4])
@every_worst_case
def test_breaks_nothing_beyond_its_reach(name: str, classes: int) -> None:
    model = linear(classes)
    x, y = labelled(model, 40, 6)
    distance = distance_to_boundary(model, x, y)
    epsilon = float(distance.median())
    result = attack(name, model, x, y, epsilon=epsilon, domain=Box(-9.0, 9.0))
    far = distance > 1.001 * epsilon
    assert bool(far.any())
    assert bool(result.correct[far].all())


@pytest.mark.parametrize(("name", "box"), [("fgsm", BOX_PER_FEATURE), ("pgd", BOX_PER_FEATURE), ("autoattack", UNIT)])
def test_the_model_is_never_asked_about_inputs_outside_the_box(name: str, box: Box) -> None:
    model = network()
    x, y = labelled(model, 6, 6)
    outside = []

    def watched(z: Tensor) -> Tensor:
        outside.append((z - box.project(z)).detach().abs().max())
        return model(z)

    attack(name, watched, x, y, epsilon=1.5, domain=box)
    assert float(max(outside)) <= 1e-6


@pytest.mark.parametrize(("high", "correct"), [(4.0, True), (5.0, False)], ids=["box excludes", "box includes"])
@every_worst_case
def test_the_box_limits_what_can_be_broken(name: str, high: float, correct: bool) -> None:
    def model(x: Tensor) -> Tensor:
        """Class 1 where the first feature exceeds 4.2."""
        return torch.stack([4.2 - x[:, 0], x[:, 0] - 4.2], dim=1)

    x, y = torch.tensor([[3.8, 3.0], [3.7, 2.5]]), torch.tensor([0, 0])
    result = attack(name, model, x, y, epsilon=1.0, domain=Box(2.0, high))
    assert result.correct.tolist() == [correct, correct]


@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_decides(name: str) -> None:
    model = network()
    x, y = labelled(model, 10, 6)

    def run(seed: int) -> AttackResult:
        return attack(name, model, x, y, epsilon=0.3, domain=UNIT, seed=seed)

    first, again, other = run(3), run(3), run(4)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.correct, again.correct)
    assert not torch.equal(first.inputs, other.inputs)


def test_noise_is_the_same_for_every_model() -> None:
    x, y = torch.rand(8, 6), torch.zeros(8).long()

    def model(wrong: int) -> Callable[[Tensor], Tensor]:
        """Class 1 for the first ``wrong`` inputs."""
        return lambda z: torch.eye(2)[[1] * wrong + [0] * (len(z) - wrong)]

    some, every = (attack("noise", model(k), x, y, epsilon=1.0, domain=UNIT).inputs for k in (4, 0))
    assert torch.equal(some[:4], x[:4])
    assert torch.equal(some[4:], every[4:])


def test_noise_is_gaussian_with_deviation_epsilon_and_not_clipped() -> None:
    x = torch.full((1000, 6), 0.5)
    result = attack(
        "noise", lambda z: torch.eye(2)[[0] * len(z)], x, torch.zeros(1000).long(), epsilon=2.0, domain=UNIT
    )
    noise = result.inputs - x
    assert float(noise.std()) == pytest.approx(2.0, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.1)
    assert float((noise.abs() < 2.0).double().mean()) == pytest.approx(0.683, abs=0.03)


def test_sign_pgd_ends_where_the_signs_point_clipped_to_the_box_last() -> None:
    weight = torch.tensor([3.0, -1.0, 0.5, 2.0])

    def model(x: Tensor) -> Tensor:
        """Never class 1; its gradient is the weight everywhere."""
        return torch.stack([torch.full((len(x),), 100.0), x @ weight], dim=1) / 50

    x, y = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5]]), torch.tensor([0, 0])
    result = attack("pgd-sign", model, x, y, epsilon=0.4, domain=UNIT)
    expected = (x + 0.4 * weight.sign() / 2).clamp(0, 1)
    assert torch.allclose(result.inputs, expected, atol=1e-4)


def test_sign_pgd_leaves_alone_what_is_already_broken() -> None:
    x, y = torch.rand(5, 6), torch.zeros(5).long()
    calls = []

    def model(z: Tensor) -> Tensor:
        """Class 0 at the inputs alone."""
        calls.append(len(z))
        return torch.stack([1e-3 - torch.cdist(z, x).amin(1), 0 * z.sum(1)], dim=1)

    result = attack("pgd-sign", model, x, y, epsilon=0.5, domain=Box())
    assert len(calls) < 10
    assert torch.allclose((result.inputs - x).norm(dim=1), torch.full((5,), 0.5), atol=1e-5)


@every_attack
def test_the_global_random_state_is_left_as_it_was(name: str) -> None:
    model = network()
    x, y = labelled(model, 4, 6)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attack(name, model, x, y, epsilon=0.3, domain=UNIT, seed=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@pytest.mark.parametrize("as_function", [False, True], ids=["module", "function"])
@every_attack
def test_the_model_is_left_as_it_was(name: str, as_function: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).train()
    model[2].eval()
    model[3].weight.requires_grad_(False)
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    if as_function:
        model.eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x, y = torch.rand(9, 6), torch.arange(9) % 4
    with torch.no_grad():  # as a caller may
        attack(name, (lambda z: model(z)) if as_function else model, x, y, epsilon=0.3, domain=UNIT)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]
    assert bool((model[0].weight.grad == 7.0).all())
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert not x.requires_grad


def test_autoattack_leaves_tracing_and_logging_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    module = network()
    x, y = labelled(module, 4, 6)
    before = sys.gettrace()

    def model(z: Tensor) -> Tensor:
        """Without gradients, of which AutoAttack's checks would write to the log."""
        return module(z).detach()

    def trace(*_: object) -> None:
        return None

    sys.settrace(trace)
    try:
        attack("autoattack", model, x, y, epsilon=0.01, domain=UNIT)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is trace
    assert not logging.getLogger("auto-attack").disabled
    assert not caplog.records


def test_autoattack_is_the_standard_set(square_runs: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    from pyautoattack import AutoAttack

    runs = []
    evaluate = AutoAttack.run_standard_evaluation

    def record(self: AutoAttack, *args: Tensor, **options: int) -> object:
        targets = self.apgd_targeted.n_target_classes, self.fab.n_target_classes
        restarts = self.apgd.n_restarts, self.apgd_targeted.n_restarts, self.fab.n_restarts
        runs.append((*self.attacks_to_run, self.version, targets, restarts))
        return evaluate(self, *args, **options)

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", record)
    for classes in (2, 3, 5, 12):
        model = linear(classes)
        attack("autoattack", model, *labelled(model, 3, 6), epsilon=1e-4, domain=UNIT)
    parts = {2: (), 3: ("apgd-dlr",), 5: ("apgd-t",), 12: ("apgd-t",)}
    targets = {2: (1, 1), 3: (2, 2), 5: (4, 4), 12: (9, 9)}
    assert [run for run, _ in itertools.groupby(runs)] == [  # APGD-CE may run at two scales
        (part, "standard", targets[classes], (1, 1, 1))
        for classes in parts
        for part in ("apgd-ce", *parts[classes], "fab-t", "square")
    ]
    assert [queries for queries, *_ in square_runs] == [5000] * 4


LAYOUTS = {
    (1,): (1, 5, 5),
    (30,): (1, 6, 6),
    (150,): (1, 13, 13),
    (8, 8): (1, 8, 8),
    (1, 8, 8): (1, 8, 8),
    (3, 6, 6): (3, 6, 6),
    (2, 5, 3): (1, 6, 6),
    (1, 12, 12): (1, 13, 13),
    (1, 14, 14): (1, 15, 15),
    (1, 18, 18): (1, 20, 20),
    (1, 24, 24): (1, 25, 25),
    (2, 2, 2, 2): (1, 5, 5),
}


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_square_takes_inputs_of_any_shape(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, square_runs: list[tuple[int, ...]]
) -> None:
    """The other attacks find nothing here, so every break is Square's."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_base import FABAttack

    for kind in (APGDAttack, APGDAttack_targeted, FABAttack):
        monkeypatch.setattr(kind, "perturb", lambda self, x, y: x)

    def model(x: Tensor) -> Tensor:
        """Class 0 while the mean stays at a half: half of all directions leave it."""
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.5 + 1e-7), mean, -mean, -mean], dim=1)

    x, y = torch.full((3, *shape), 0.5), torch.zeros(3).long()
    with pytest.warns(CheaplipWarning, match="Square, which uses no gradients"):
        result = attack("autoattack", model, x, y, epsilon=0.25, domain=UNIT)
    assert square_runs == [(5000, *LAYOUTS[shape])]
    assert result.accuracy == 0
    assert result.inputs.shape == x.shape
    assert bool(((result.inputs - x).flatten(1).norm(dim=1) <= 0.25 * (1 + 1e-4)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@every_attack
def test_one_input_of_any_type(name: str, dtype: torch.dtype) -> None:
    model = network().to(dtype)
    x = torch.rand(1, 6).to(dtype)
    y = predicted(model, x)
    result = attack(name, model, x.requires_grad_(), y.int(), epsilon=0.01, domain=UNIT)
    assert x.grad is None
    assert result.inputs.dtype == dtype
    assert not result.inputs.requires_grad
    assert result.correct.tolist() == [True]


@every_worst_case
def test_rounding_of_large_inputs_is_not_taken_for_an_error(name: str) -> None:
    model = nn.Linear(50, 4)
    x = 1e4 * torch.rand(3, 50)
    result = attack(name, model, x, predicted(model, x), epsilon=0.01, domain=Box(0.0, 1e6))
    assert bool(((result.inputs - x).norm(dim=1) < 0.05).all())


@every_attack
def test_nothing_happens_at_epsilon_0(name: str) -> None:
    model = network()
    x, y = labelled(model, 8, 6, wrong=2)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    result = attack(name, model, x, y, epsilon=0, domain=UNIT)
    assert len(calls) <= 3
    assert torch.equal(result.inputs, x)
    assert result.accuracy == 0.75


@every_attack
def test_nothing_left_to_attack(name: str) -> None:
    model = network()
    x, y = labelled(model, 3, 6, wrong=3)
    seen: list[tuple[int, int]] = []
    result = attack(name, model, x, y, epsilon=0.5, domain=UNIT, progress=lambda *step: seen.append(step))
    assert result.accuracy == 0
    assert torch.equal(result.inputs, x)
    assert [done == total for done, total in seen] == [True]


@pytest.mark.parametrize(
    ("name", "steps"),
    [("noise", [(10, 10)]), ("pgd", [(2, 20), (6, 20), (12, 20), (16, 20), (20, 20)])],
    ids=["noise", "pgd"],
)
def test_progress_counts_inputs(name: str, steps: list[tuple[int, int]]) -> None:
    model = network()
    x, y = labelled(model, 10, 6, wrong=2)
    seen: list[tuple[int, int]] = []
    attack(name, model, x, y, epsilon=0.01, domain=UNIT, batch_size=4, progress=lambda *step: seen.append(step))
    assert seen == steps


def test_progress_of_autoattack_rises_to_its_end() -> None:
    model = network()
    x, y = labelled(model, 10, 6)
    seen: list[tuple[int, int]] = []
    attack("autoattack", model, x, y, epsilon=0.2, domain=UNIT, batch_size=4, progress=lambda *step: seen.append(step))
    assert seen == sorted(set(seen))
    assert seen[0] == (0, 50)
    assert seen[-1] == (50, 50)


X, Y = torch.full((4, 6), 0.5), torch.zeros(4, dtype=torch.long)
BAD = {
    "unknown attack": (
        {"name": "pgd2"},
        r"attack: expected one of noise, fgsm, pgd-sign, pgd, fmn, autoattack, blur, brightness, got 'pgd2'",
    ),
    "negative epsilon": ({"epsilon": -0.1}, r"epsilon: expected a finite number of at least 0, got -0\.1"),
    "NaN epsilon": ({"epsilon": float("nan")}, r"epsilon: .* got nan"),
    "infinite epsilon": ({"epsilon": float("inf")}, r"epsilon: .* got inf"),
    "too few labels": ({"y": Y[:3]}, r"labels: expected one for each of 4 inputs, got shape \(3,\)"),
    "one-hot labels": ({"y": torch.eye(4)}, r"labels: expected integers, got torch\.float32"),
    "fractional labels": ({"y": Y.float()}, r"labels: expected integers, got torch\.float32"),
    "bool labels": ({"y": Y.bool()}, r"labels: expected integers, got torch\.bool"),
    "a list of labels": ({"y": [0, 1, 2, 3]}, r"labels: expected integers, got list"),
    "labels as a column": ({"y": Y[:, None]}, r"labels: expected one for each of 4 inputs, got shape \(4, 1\)"),
    "labels from 1": (
        {"y": Y + 1 + torch.arange(4)},
        r"labels: expected 0 to 3, got 1 to 4: subtract 1 from labels that",
    ),
    "labels too large": ({"y": Y + 7}, r"labels: expected 0 to 3, got 7 to 7$"),
    "negative labels": ({"y": Y.to(torch.int8) - 1}, r"labels: expected 0 to 3, got -1 to -1$"),
    "bytes": ({"x": X.byte()}, r"x: expected floating-point inputs, got torch\.uint8: convert them with x\.float\(\)"),
    "a list of inputs": ({"x": X.tolist()}, r"x: expected a tensor of one or more inputs, \(N, \*input\), got list"),
    "no inputs": ({"x": X[:0], "y": Y[:0]}, r"x: expected a tensor of one or more inputs, .* got shape \(0, 6\)"),
    "inputs without features": ({"x": X[:, 0]}, r"x: expected a tensor of one or more inputs, .* got shape \(4,\)"),
    "norm 1": ({"norm": 1}, r"norm: expected 2 or inf, got 1"),
    "norm as text": ({"norm": "linf"}, r"norm: expected 2 or inf, got 'linf'"),
    "epsilon as text": ({"epsilon": "8/255"}, r"epsilon: expected a finite number of at least 0, got '8/255'"),
    "pgd-sign in L∞": ({"name": "pgd-sign", "norm": math.inf}, r"pgd-sign: expected norm=2, .* got inf: use 'pgd'"),
    "complex outputs": ({"model": lambda z: z * 1j}, r"expected real logits, got torch\.complex64"),
    "random": (
        {"model": lambda z: torch.nn.functional.dropout(z)},
        r"two calls on the same input differ in evaluation mode, so an attack on the model would mean nothing",
    ),
    "outside the box": ({"x": 3 * X}, r"x: expected inputs inside Box\(0, 1\), got values from 1\.5 to 1\.5: name"),
    "NaN in the inputs": ({"x": X * float("nan")}, r"x: expected inputs inside Box\(0, 1\), got values from nan"),
    "box of another shape": ({"domain": Box(torch.zeros(5), 1.0)}, r"box\.low of shape \(5,\) does not broadcast"),
    "no batch": ({"batch_size": 0}, r"batch_size: expected 1 or more, got 0"),
    "range per feature": (
        {"name": "autoattack", "domain": Box(torch.zeros(6), torch.linspace(1, 2, 6))},
        r"autoattack: expected one range for all features, got a box with several: use 'pgd'",
    ),
    "no class axis": ({"model": lambda z: z[:, 0]}, r"expected logits of shape \(4, two or more classes\), got \(4,\)"),
    "two tensors": ({"model": lambda z: (z, z)}, r"expected logits .* got tuple: let the model return one tensor"),
    "fewer outputs than inputs": ({"model": lambda z: z[:2]}, r"expected logits of shape \(4, .* got \(2, 6\)"),
    "one class": ({"model": lambda z: z[:, :1]}, r"expected logits .* got \(4, 1\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case: str) -> None:
    change, message = BAD[case]
    arguments = {"name": "pgd", "model": linear(), "x": X, "y": Y, "epsilon": 0.1, "domain": UNIT} | change
    with pytest.raises((TypeError, ValueError), match=message):
        attack(**arguments)


@pytest.mark.parametrize(("name", "package"), [("pgd", "foolbox"), ("fgsm", "foolbox"), ("autoattack", "pyautoattack")])
def test_a_missing_library_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    model = linear()
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'cheaplip\[cli\]'"):
        attack(name, model, *labelled(model, 3, 6), epsilon=0.1, domain=UNIT)


@pytest.mark.parametrize(
    ("move", "domain"),
    [(lambda x: x + 0.2, UNIT), (lambda x: x - 0.04, Box(0.4, 1.0)), (lambda x: x * float("nan"), UNIT)],
    ids=["leaves the ball", "leaves the box", "NaN"],
)
def test_an_attack_that_breaks_its_own_rules_is_an_error(
    move: Callable[[Tensor], Tensor], domain: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings(action="ignore"):
        import foolbox

    monkeypatch.setattr(foolbox.attacks.L2PGD, "__call__", lambda self, model, x, y, epsilons: (None, move(x), None))
    model = linear()
    x = torch.full((3, 6), 0.42)
    with pytest.raises(
        RuntimeError, match=r"attack 'pgd' left the box or the ball, or returned NaN, for 3 of 3 inputs"
    ):
        attack("pgd", model, x, predicted(model, x), epsilon=0.2, domain=domain)


def test_the_excess_of_rounding_is_projected_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings(action="ignore"):
        import foolbox

    move = torch.tensor([0.3, 0.4]) * (1 + 5e-5)
    monkeypatch.setattr(foolbox.attacks.L2PGD, "__call__", lambda self, model, x, y, epsilons: (None, x + move, None))
    model, x = linear(2, 2), torch.tensor([[0.2, 0.1], [0.0, 0.6]])
    inputs = attack("pgd", model, x, predicted(model, x), epsilon=0.5, domain=UNIT).inputs
    assert UNIT.contains(inputs)
    assert bool(((inputs - x).norm(dim=1) <= 0.5 * (1 + 1e-6)).all())
    assert not torch.equal(inputs, x)


def test_rounding_does_not_leave_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, x + (0.7 - x) > 0.7 for one x in ten."""
    with warnings.catch_warnings(action="ignore"):
        import foolbox

    monkeypatch.setattr(
        foolbox.attacks.L2PGD, "__call__", lambda self, model, x, y, epsilons: (None, 0 * x + 0.7, None)
    )
    model, x, domain = linear(), 1.4 * torch.rand(50, 6) - 0.7, Box(-0.7, 0.7)
    assert domain.contains(attack("pgd", model, x, predicted(model, x), epsilon=9.0, domain=domain).inputs)


def test_square_says_when_gradients_are_masked() -> None:
    model = network()
    x, y = labelled(model, 20, 6)
    with pytest.warns(
        CheaplipWarning, match=r"Square, which uses no gradients, broke \d+ inputs .* masks its gradients"
    ):
        attack("autoattack", lambda z: model((z * 20).round() / 20), x, y, epsilon=0.6, domain=UNIT)


def test_a_model_that_returns_its_own_tensor_keeps_it() -> None:
    table = torch.eye(4)
    attack("autoattack", lambda z: table[: len(z)], torch.rand(4, 6), torch.arange(4), epsilon=0.1, domain=UNIT)
    assert torch.equal(table, torch.eye(4))


def test_accuracy_is_a_fraction_in_evaluation_mode() -> None:
    model = nn.Sequential(network(), nn.Dropout(0.9)).eval()
    x, y = labelled(model, 10, 6, wrong=3)
    model.train()
    assert accuracy(model, x, y, batch_size=4) == pytest.approx(0.7)
    assert all(module.training for module in model.modules())
    with pytest.raises(ValueError, match=r"^labels: expected one for each of 10 inputs, got shape \(9,\)"):
        accuracy(model, x, y[:9])


def test_checking_raises_no_warning_for_a_good_classifier_and_leaves_it_as_it_was() -> None:
    model = nn.Sequential(network(), nn.Dropout(0.5)).train()
    check_classifier(model, torch.rand(7, 6), classes=4)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_the_first_thousand_inputs_are_checked() -> None:
    model = network()
    with pytest.warns(CheaplipWarning, match=r"zero at 1000 of 1000 inputs"):
        check_classifier(lambda z: model(z).round(), torch.rand(1200, 6))


def test_logits_that_sum_to_one_are_no_probabilities() -> None:
    check_classifier(lambda z: torch.stack([z.sum(1), 1 - z.sum(1)], dim=1), 3 * torch.rand(7, 6))


@pytest.mark.parametrize(
    ("model", "classes", "message"),
    [
        (linear(3), 4, r"expected logits of shape \(5, 4\), got \(5, 3\)"),
        (lambda z: z[0], None, r"expected logits of shape \(5, two or more classes\), got \(6,\)"),
        (lambda z: [z], None, r"got list: let the model return one tensor, with a logit for each class"),
        (lambda z: linear()(z) / 0, None, r"expected finite logits, got NaN or inf"),
    ],
    ids=["another number of classes", "one input's output", "a list", "infinite"],
)
def test_outputs_that_are_not_logits_are_refused(
    model: Callable[[Tensor], Tensor], classes: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_classifier(model, torch.rand(5, 6), classes)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: z.softmax(1), r"outputs look like probabilities, .* pass logits, without the softmax"),
        (lambda z: z + 0.1 * torch.rand_like(z), r"outputs differ between two calls in evaluation mode"),
        (lambda z: z.round(), r"gradient of the cross-entropy is zero at 5 of 5 inputs \(gradient masking\)"),
        (lambda z: z.detach(), r"gradient of the cross-entropy is zero at 5 of 5 inputs \(gradient masking\)"),
    ],
    ids=["probabilities", "random", "rounded", "detached"],
)
def test_what_makes_attacks_unreliable_is_said(wrap: Callable[[Tensor], Tensor], message: str) -> None:
    model = network()
    x, before = torch.rand(5, 6), torch.get_rng_state()
    with pytest.warns(CheaplipWarning, match=message) as caught:
        check_classifier(lambda z: wrap(model(z)), x)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def constant(x: Tensor) -> Tensor:
    """Class 0 whatever the input is."""
    return torch.stack([1 + 0 * x.flatten(1).sum(1), 0 * x.flatten(1).sum(1)], dim=1)


def test_a_blurred_point_is_a_gaussian() -> None:
    x = torch.zeros(1, 1, 21, 21)
    x[..., 10, 10] = 1.0
    seen = attack("blur", constant, x, torch.tensor([0]), epsilon=1.5, domain=UNIT).inputs[0, 0]
    assert float(seen.sum()) == pytest.approx(1, abs=1e-5)
    assert float(seen[10, 12] / seen[10, 10]) == pytest.approx(math.exp(-0.5 * (2 / 1.5) ** 2), rel=1e-4)
    assert torch.allclose(seen, seen.T)


def test_blur_keeps_what_is_constant_up_to_the_border() -> None:
    x = torch.full((2, 3, 5, 4), 0.7)
    seen = attack("blur", constant, x, torch.zeros(2).long(), epsilon=3.0, domain=UNIT).inputs
    assert torch.allclose(seen, x)


@pytest.mark.parametrize(("threshold", "correct"), [(0.55, False), (0.65, True)])
def test_brightness_is_changed_both_ways_within_the_box(threshold: float, correct: bool) -> None:
    def model(x: Tensor) -> Tensor:
        """Class 0 while the mean is nearer than the threshold to 0.9."""
        return torch.stack([threshold - (x.flatten(1).mean(1) - 0.9).abs(), 0 * x.flatten(1).mean(1)], dim=1)

    x = torch.full((1, 1, 4, 4), 0.9)
    found = attack("brightness", model, x, torch.tensor([0]), epsilon=0.6, domain=UNIT)
    assert found.correct.tolist() == [correct]
    assert UNIT.contains(found.inputs)


@pytest.mark.parametrize("name", ["blur", "brightness"])
def test_corruptions_of_images_refuse_other_inputs(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected images \(N, channels, height, width\), got shape"):
        attack(name, network(), *labelled(network(), 3, 6), epsilon=0.1, domain=UNIT)


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_the_scale_of_the_logits_makes_no_attack_unreliable(scale: float) -> None:
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_classifier(lambda z: scale * model(z), torch.rand(5, 6))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "fmn", "autoattack"])
def test_the_scale_of_the_logits_protects_no_input(name: str, norm: float, scale: float) -> None:
    model = network()
    x, y = labelled(model, 60, 6)
    epsilon = 0.15 if norm == 2 else 0.07
    plain = attack(name, model, x, y, epsilon=epsilon, domain=UNIT, norm=norm)
    scaled = attack(name, lambda z: scale * model(z), x, y, epsilon=epsilon, domain=UNIT, norm=norm)
    assert 0.1 < plain.accuracy < 0.9
    assert abs(int(scaled.correct.sum()) - int(plain.correct.sum())) <= 3  # of 60; the plain one has two scales to try


@pytest.mark.parametrize(
    ("lead", "factor"),
    [(1e-3, 4.0**6), (0.5, 16.0), (2.9, 4.0), (3.0, None), (11.9, None), (12.0, 1 / 4), (1e5, 4.0**-7), (0.0, None)],
)
def test_a_stage_is_run_again_at_a_lead_from_three_to_twelve(lead: float, factor: float | None) -> None:
    logits = torch.tensor([[lead, 0.0, -1.0]])
    seen = []

    def run(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        seen.append(problem.logits(x))
        return x + 1

    x, y = torch.zeros(1, 2), torch.tensor([0])
    found = rescaled(run, Problem(lambda x: logits, 1.0, Box(), 0))(x, y)
    assert torch.equal(found, x if factor is None else x + 1)
    assert len(seen) == (factor is not None)
    assert all(torch.allclose(some, factor * logits) for some in seen)


@pytest.mark.parametrize("norm", [2, math.inf])
def test_the_smallest_perturbation_of_a_linear_classifier_is_found(norm: float) -> None:
    model = linear(2)
    x, y = labelled(model, 40, 6)
    slope = (model.weight[0] - model.weight[1]).detach()
    with torch.no_grad():
        logits = model(x)
    nearest = (logits[:, 0] - logits[:, 1]).abs() / slope.norm(2 if norm == 2 else 1)
    result = attack("fmn", model, x, y, epsilon=9.0, norm=norm, domain=Box(-99.0, 99.0))
    moved = torch.linalg.vector_norm(result.inputs - x, norm, dim=1)
    assert result.accuracy == 0
    assert bool((moved >= nearest * (1 - 1e-5)).all())
    assert float((moved / nearest).max()) < 1.05


def test_one_run_tells_the_accuracy_at_every_radius() -> None:
    model = network()
    x, y = labelled(model, 60, 6, wrong=6)
    radii = [0.0, 0.05, 0.1, 0.2, 0.4]
    result = attack("fmn", model, x, y, epsilon=0.4, domain=UNIT)
    curve = result.accuracies(x, radii)
    assert curve == sorted(curve, reverse=True)
    assert (curve[0], curve[-1]) == (0.9, result.accuracy)
    for radius, found in zip(radii[1:], curve[1:], strict=True):
        assert found == pytest.approx(attack("pgd", model, x, y, epsilon=radius, domain=UNIT).accuracy, abs=0.05)


@pytest.mark.parametrize("end", ["input", "output"])
@every_worst_case
def test_a_model_without_gradients_is_attacked_all_the_same(name: str, end: str) -> None:
    model = network()
    x, y = labelled(model, 4, 6)
    detached = {"input": lambda z: model(z.detach()), "output": lambda z: model(z).detach()}[end]
    assert attack(name, detached, x, y, epsilon=0.01, domain=UNIT).accuracy == 1
