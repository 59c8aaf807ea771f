"""The discrepancy principle: exact moves, when λ waits, and a closed loop that settles."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import CLIP, DiscrepancyPrinciple, PairSet

fast = settings(deadline=None, max_examples=50, derandomize=True)
metrics = st.lists(st.floats(0, 1), min_size=1, max_size=60)


class Penalty(nn.Module):
    """Anything with a scalar buffer ``lam``."""

    lam: torch.Tensor

    def __init__(self, lam: float = 1.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.register_buffer("lam", torch.tensor(lam, dtype=dtype))


def controlled(target: float = 0.75, *, lam: float = 1.0, **options) -> tuple[Penalty, DiscrepancyPrinciple]:
    penalty = Penalty(lam)
    return penalty, DiscrepancyPrinciple(penalty, target, **options)


# The additive rule


@pytest.mark.parametrize(
    ("metric", "mode", "expected"),
    [(0.8, "max", 1.125), (0.7, "max", 0.875), (0.8, "min", 0.875), (0.7, "min", 1.125)],
    ids=["above, max", "below, max", "above, min", "below, min"],
)
def test_additive_moves_by_exactly_the_rate(metric, mode, expected):
    penalty, controller = controlled(mode=mode, rule="additive", rate=0.125)
    controller.step(metric)
    assert penalty.lam.item() == expected


@pytest.mark.parametrize("metric", [0.7501, 0.8, 1.0], ids=str)
def test_additive_ignores_how_large_the_error_is(metric):
    penalty, controller = controlled(rule="additive", rate=0.125)
    controller.step(metric)
    assert penalty.lam.item() == 1.125


def test_additive_falls_when_the_target_is_met_exactly():
    penalty, controller = controlled(rule="additive", rate=0.125)
    controller.step(0.75)
    assert penalty.lam.item() == 0.875


def test_additive_follows_the_paper_step_by_step():
    penalty, controller = controlled(rule="additive", rate=0.25)
    course = []
    for metric in (0.9, 0.9, 0.6, 0.9, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.9):
        controller.step(metric)
        course.append(penalty.lam.item())
    assert course == [1.25, 1.5, 1.25, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0, 0.25]


def test_additive_never_falls_below_zero():
    penalty, controller = controlled(rule="additive", rate=0.75)
    for _ in range(3):
        controller.step(0.5)
    assert penalty.lam.item() == 0.0


def test_additive_may_start_from_zero():
    penalty, controller = controlled(rule="additive", rate=0.125, lam=0.0)
    controller.step(0.9)
    assert penalty.lam.item() == 0.125


# The multiplicative rule


@pytest.mark.parametrize(
    ("metric", "mode", "power"),
    [
        (1.0, "max", 1.0),
        (0.0, "max", -1.0),
        (0.85, "max", 0.5),
        (0.65, "max", -0.5),
        (0.75, "max", 0.0),
        (0.0, "min", 1.0),
        (3.0, "min", -1.0),
        (0.65, "min", 0.5),
        (0.85, "min", -0.5),
    ],
    ids=str,
)
def test_multiplicative_is_proportional_within_the_width_and_limited_by_the_rate(metric, mode, power):
    penalty, controller = controlled(mode=mode, rate=0.3, smoothing=0.0, width=0.2, lam=2.0)
    controller.step(metric)
    assert penalty.lam.item() == pytest.approx(2.0 * math.exp(0.3 * power))


@pytest.mark.parametrize(
    ("target", "mode", "width"), [(0.96, "max", 0.01), (0.2, "min", 0.05)], ids=["accuracy", "loss"]
)
def test_width_is_a_quarter_of_the_distance_to_a_perfect_metric(target, mode, width):
    _, controller = controlled(target, mode=mode)
    assert controller.width == pytest.approx(width)


@fast
@given(metrics, st.floats(0, 0.99), st.floats(0.001, 1), st.sampled_from(["max", "min"]), st.floats(0, 5))
def test_multiplicative_moves_towards_the_target_and_never_faster_than_the_rate(values, smoothing, rate, mode, damping):
    penalty, controller = controlled(mode=mode, rate=rate, smoothing=smoothing, damping=damping, bounds=(1e-300, 1e300))
    for value in values:
        before = penalty.lam.item()
        controller.step(value)
        change = math.log(penalty.lam.item() / before)
        error = controller.average.item() - 0.75
        wanted = error if mode == "max" else -error
        assert abs(change) <= rate * (1 + 1e-9) + 1e-12
        assert change <= 1e-12 if wanted < 0 else change >= -1e-12


@pytest.mark.parametrize(("metric", "bound"), [(1.0, 4.0), (0.0, 0.25)], ids=["largest", "smallest"])
@pytest.mark.parametrize("rule", ["multiplicative", "additive"])
def test_lam_stays_within_bounds(rule, metric, bound):
    penalty, controller = controlled(rule=rule, rate=0.5, smoothing=0.0, bounds=(0.25, 4.0))
    for _ in range(20):
        controller.step(metric)
        assert 0.25 <= penalty.lam.item() <= 4.0
    assert penalty.lam.item() == bound


@pytest.mark.parametrize(
    ("rule", "bounds"), [("multiplicative", (1e-4, 1e4)), ("additive", (0.0, math.inf))], ids=["*", "+"]
)
def test_default_bounds(rule, bounds):
    assert controlled(rule=rule)[1].bounds == bounds


# Warm-up and pace


@pytest.mark.parametrize(("metric", "sign"), [(0.95, 1), (0.5, -1)], ids=["above", "below"])
@pytest.mark.parametrize("rule", ["multiplicative", "additive"])
def test_warmup_holds_lam(rule, metric, sign):
    penalty, controller = controlled(rule=rule, warmup=3, rate=0.125)
    course = []
    for _ in range(5):
        controller.step(metric)
        course.append(penalty.lam.item())
    assert course[:3] == [1.0, 1.0, 1.0]
    assert sign * 1.0 < sign * course[3] < sign * course[4]


def test_there_is_no_warmup_unless_told():
    assert controlled()[1].warmup == 0


@pytest.mark.parametrize("pace", [0.0, 0.25, 1.0, 2.0], ids=str)
@pytest.mark.parametrize(("metric", "sign"), [(1.0, 1), (0.0, -1)], ids=["above", "below"])
def test_lam_moves_in_proportion_to_the_pace(metric, sign, pace):
    product, multiplies = controlled(rate=0.5, smoothing=0.0)
    total, adds = controlled(rate=0.25, rule="additive")
    for controller in (multiplies, adds):
        controller.step(metric, pace=pace)
    assert product.lam.item() == pytest.approx(math.exp(sign * pace * 0.5))
    assert total.lam.item() == 1.0 + sign * pace * 0.25


def test_the_pace_does_not_touch_the_average():
    _, controller = controlled(smoothing=0.5)
    for metric, pace in ((0.2, 0.0), (0.8, 0.1), (0.6, 3.0)):
        controller.step(metric, pace=pace)
    assert controller.average.item() == pytest.approx(0.5 * 0.6 + 0.5 * (0.5 * 0.8 + 0.5 * 0.2))


def test_warmup_feeds_the_average():
    _, controller = controlled(warmup=10, smoothing=0.5)
    for metric in (0.2, 0.8, 0.6):
        controller.step(metric)
    assert controller.average.item() == pytest.approx(0.5 * 0.6 + 0.5 * (0.5 * 0.8 + 0.5 * 0.2))


# The moving average


def test_average_starts_as_a_plain_mean():
    _, controller = controlled(smoothing=0.99)
    for metric in (0.2, 0.8, 0.5, 0.9):
        controller.step(metric)
    assert controller.average.item() == pytest.approx(0.6)


def test_average_forgets_at_the_rate_of_smoothing():
    _, controller = controlled(smoothing=0.9)
    for _ in range(50):
        controller.step(0.0)
    controller.step(1.0)
    assert controller.average.item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("rule", "smoothing"), [("multiplicative", 0.99), ("additive", 0.0)], ids=["multiplicative", "additive"]
)
def test_default_smoothing(rule, smoothing):
    assert controlled(rule=rule)[1].smoothing == smoothing


# Waiting


def recover(damping: float, mode: str = "max", *, met: bool = True) -> list[tuple[float, float]]:
    """Errors and changes of log λ while a metric that was too low turns high; the target met before, or never."""
    penalty, controller = controlled(mode=mode, smoothing=0.9, damping=damping, rate=0.01, lam=1.0)
    if met:
        controller.step(1.0 if mode == "max" else 0.0)
    course = []
    for step in range(180):
        before = penalty.lam.item()
        controller.step(0.6 if step < 100 else 0.85)
        course.append((controller.average.item() - 0.75, math.log(penalty.lam.item() / before)))
    return course[100:]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_lam_waits_while_the_trend_closes_the_gap(mode):
    waiting = [change for error, change in recover(3.0, mode) if error < 0]
    assert 0.0 in waiting
    assert waiting[-1] == 0.0


@pytest.mark.parametrize("met", [True, False], ids=["met before", "never met"])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_without_damping_lam_does_not_wait(mode, met):
    moving = [change for error, change in recover(0.0, mode, met=met) if error < 0]
    assert all(change < 0 if mode == "max" else change > 0 for change in moving)


def test_lam_waits_longer_before_the_target_is_first_met():
    before, after = (sum(change == 0 for error, change in recover(3.0, met=met) if error < 0) for met in (False, True))
    assert before > after > 0


@pytest.mark.parametrize("mode", ["max", "min"])
def test_lam_falls_reluctantly_until_the_target_is_first_met(mode):
    missed, met = (0.1, 0.95) if mode == "max" else (0.95, 0.1)
    penalty, controller = controlled(0.5, mode=mode, smoothing=0.0, damping=0.0, reluctance=4.0, rate=0.1, lam=1.0)
    moves = []
    for metric in (missed, met, missed):
        before = math.log(penalty.lam.item())
        controller.step(metric)
        moves.append(math.log(penalty.lam.item()) - before)
    assert moves == pytest.approx([-0.1 / 4, 0.1, -0.1], abs=1e-5)


def test_lam_never_rises_while_the_metric_is_below_the_target():
    assert all(change <= 0 for error, change in recover(100.0) if error < 0)


def test_lam_falls_while_the_trend_leads_away():
    penalty, controller = controlled(smoothing=0.9)
    reference, undamped = controlled(smoothing=0.9, damping=0.0)
    for step in range(60):
        before = penalty.lam.item(), reference.lam.item()
        for each in (controller, undamped):
            each.step(0.74 if step < 30 else 0.5)
        falls = [math.log(after.lam.item() / was) for after, was in zip((penalty, reference), before, strict=True)]
    assert falls[0] == pytest.approx(falls[1]) == pytest.approx(-0.01)


def test_the_additive_rule_does_not_wait():
    penalty, controller = controlled(rule="additive", rate=0.125, smoothing=0.9, damping=100.0, lam=8.0)
    for metric in (0.5, 0.5, 0.9):
        controller.step(metric)
    assert penalty.lam.item() == 8.0 - 3 * 0.125


# Closed loop


@pytest.mark.parametrize("start", [1e-3, 0.1, 10.0], ids=str)
@pytest.mark.parametrize("lag", [1, 50], ids=lambda lag: f"lag {lag}")
def test_a_lagging_plant_settles_on_the_target_at_every_step(lag, start):
    penalty, controller = controlled(0.9, lam=start)
    accuracy, course = 0.5, []
    for _ in range(6000):
        accuracy += (1 - 0.1 * math.log1p(penalty.lam.item()) - accuracy) / lag
        controller.step(accuracy)
        course.append(accuracy)
    assert max(abs(value - 0.9) for value in course[4000:]) <= 0.005


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_plant_settles_on_the_target_in_every_epoch_s_mean(seed):
    penalty, controller = controlled(0.9, lam=0.1)
    generator = torch.Generator().manual_seed(seed)
    noise = 0.03 * torch.randn(6000, generator=generator, dtype=torch.float64)  # a batch of 128 at 90 %
    accuracy, course = 0.5, []
    for wobble in noise:
        accuracy += (1 - 0.1 * math.log1p(penalty.lam.item()) - accuracy) / 50
        controller.step((accuracy + wobble).clamp(max=1.0))
        course.append(accuracy)
    epochs = torch.tensor(course).reshape(12, 500).mean(dim=1)
    assert (epochs[8:] - 0.9).abs().max() <= 0.005


def test_a_plant_settles_on_the_target_epoch_by_epoch():
    penalty, controller = controlled(0.9, lam=0.1, smoothing=0.0, rate=0.5)
    course = []
    for _ in range(60):
        course.append(1 - 0.1 * math.log1p(penalty.lam.item()))
        controller.step(course[-1])
    assert max(abs(value - 0.9) for value in course[40:]) <= 0.005


def test_a_loss_settles_on_its_target():
    penalty, controller = controlled(0.2, mode="min", lam=0.1)
    loss, course = 2.0, []
    for _ in range(6000):
        loss += (0.1 * math.log1p(penalty.lam.item()) - loss) / 50
        controller.step(loss)
        course.append(loss)
    assert max(abs(value - 0.2) for value in course[4000:]) <= 0.005


# Tensors and state


def test_a_tensor_is_never_read_by_the_host(monkeypatch):
    penalty, controller = controlled()
    metric = torch.tensor(0.9, requires_grad=True)
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("the host waits for a tensor"))
        controller.step(metric)
    assert penalty.lam.item() > 1.0
    assert not penalty.lam.requires_grad


@pytest.mark.parametrize(
    "metric",
    [0.75 + 0.125, torch.tensor(0.875), torch.tensor(0.875, dtype=torch.float64), torch.tensor(0.875).half()],
    ids=["number", "float32", "float64", "float16"],
)
def test_tensors_and_numbers_mean_the_same(metric):
    penalty, controller = controlled(rate=0.5, smoothing=0.0, width=0.25)
    controller.step(metric)
    assert penalty.lam.item() == pytest.approx(math.exp(0.25))


def test_lam_is_moved_in_place():
    penalty, controller = controlled()
    lam = penalty.lam
    controller.step(0.9)
    assert penalty.lam is lam


def test_it_steers_the_penalty_of_clip():
    clip = CLIP(PairSet(torch.tensor([[0.0, 0.0], [1.0, 1.0]])), lam=0.5)
    DiscrepancyPrinciple(clip, 0.75, rule="additive", rate=0.25).step(0.9)
    assert clip.lam.item() == 0.75


@pytest.mark.parametrize("rule", ["multiplicative", "additive"])
def test_resuming_is_bit_identical(rule):
    build = lambda: controlled(rule=rule, smoothing=0.9, warmup=5, rate=0.01)  # noqa: E731
    (one, steers_one), (other, steers_other) = build(), build()
    course = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    course[0], course[1:20] = 1.0, 0.5  # the target is met once, and lost
    for metric in course[:10]:
        steers_one.step(metric)
    state, lam = steers_one.state_dict(), one.lam.clone()
    for metric in course[10:]:
        steers_one.step(metric)
    steers_other.load_state_dict(state)
    other.lam.copy_(lam)
    for metric in course[10:]:
        steers_other.step(metric)
    assert torch.equal(one.lam, other.lam)
    assert all(torch.equal(value, steers_other.state_dict()[name]) for name, value in steers_one.state_dict().items())


def test_state_dict_is_a_snapshot_of_tensors():
    _, controller = controlled()
    controller.step(0.9)
    state = controller.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    controller.step(0.1)
    assert all(isinstance(value, torch.Tensor) and torch.equal(value, before[name]) for name, value in state.items())


# Lazy penalties


class Lazy(Penalty):
    """A penalty that looks at λ at every fourth call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @property
    def due(self) -> bool:
        return self.calls % 4 == 0

    def forward(self) -> torch.Tensor:
        self.calls += 1
        return self.lam


@pytest.mark.parametrize("rule", ["multiplicative", "additive"])
@pytest.mark.parametrize("metric", [0.9, 0.7], ids=str)
def test_lam_waits_for_a_lazy_penalty_and_moves_as_far(rule, metric):
    options = {"rule": rule, "rate": 0.01, "warmup": 4, "gain": 0.5}
    every, steers_every = controlled(**options)
    lazy = Lazy()
    steers_lazy = DiscrepancyPrinciple(lazy, 0.75, **options)
    for call in range(1, 21):
        before = lazy.lam.item()
        lazy()
        steers_every.step(metric)
        steers_lazy.step(metric)
        if call % 4:
            assert lazy.lam.item() == before
        else:
            assert lazy.lam.item() == pytest.approx(every.lam.item(), rel=1e-9)
    assert lazy.lam.item() != 1.0


def test_what_a_lazy_penalty_collects_counts_as_its_mean():
    lazy = Lazy()
    controller = DiscrepancyPrinciple(lazy, 0.75, smoothing=0.5)
    for metric in (0.0, 0.2, 0.4, 1.0, 0.6, 0.6, 1.0, 1.0):
        lazy()
        controller.step(metric)
    past = 0.5**4
    assert controller.average.item() == pytest.approx(past * 0.4 + (1 - past) * 0.8)


@pytest.mark.parametrize("calls", [0, 2, 390], ids=lambda calls: f"{calls} calls between")
def test_a_metric_that_does_not_come_with_each_call_moves_lam_at_once(calls):
    lazy = Lazy()
    controller = DiscrepancyPrinciple(lazy, 0.75, rule="additive", rate=0.125)
    for epoch in range(1, 4):
        for _ in range(calls):
            lazy()
        controller.step(0.9)
        assert lazy.lam.item() == 1.0 + 0.125 * epoch


def test_what_was_collected_survives_a_checkpoint():
    lazy = Lazy()
    controller = DiscrepancyPrinciple(lazy, 0.75, rate=0.1)
    course = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    for metric in course[:6]:
        lazy()
        controller.step(metric)
    other = Lazy()
    other.calls, other.lam = lazy.calls, lazy.lam.clone()
    resumed = DiscrepancyPrinciple(other, 0.75, rate=0.1)
    resumed.load_state_dict(controller.state_dict())
    for metric in course[6:]:
        for penalty, steers in ((lazy, controller), (other, resumed)):
            penalty()
            steers.step(metric)
    assert torch.equal(lazy.lam, other.lam)
    assert lazy.lam.item() != 1.0


def test_an_incomplete_state_is_refused_by_name():
    controller = DiscrepancyPrinciple(Lazy(), 0.75)
    state = controller.state_dict()
    del state["averages"], state["calls"]
    with pytest.raises(ValueError, match="got one without averages, calls"):
        controller.load_state_dict(state)


# Errors


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (0.0, {}, "target: expected an accuracy in (0, 1), got 0.0: 97 % is 0.97; for a loss say mode='min'"),
        (1.0, {}, "target: expected an accuracy in (0, 1), got 1.0: 97 % is 0.97; for a loss say mode='min'"),
        (97, {}, "target: expected an accuracy in (0, 1), got 97: 97 % is 0.97; for a loss say mode='min'"),
        (math.nan, {}, "target: expected an accuracy in (0, 1), got nan: 97 % is 0.97; for a loss say mode='min'"),
        (0.0, {"mode": "min"}, "target: expected a positive loss, got 0.0"),
        (math.inf, {"mode": "min"}, "target: expected a positive loss, got inf"),
        (0.9, {"mode": "above"}, "mode: expected one of max, min, lipschitz, got 'above'"),
        (0.9, {"rule": "integral"}, "rule: expected one of multiplicative, additive, got 'integral'"),
        (0.9, {"rate": 0.0}, "rate: expected a positive number, got 0.0"),
        (0.9, {"rate": math.nan}, "rate: expected a positive number, got nan"),
        (0.9, {"width": -1.0}, "width: expected a positive number, got -1.0"),
        (0.9, {"width": math.inf}, "width: expected a positive number, got inf"),
        (0.9, {"smoothing": 1.0}, "smoothing: expected a number in [0, 1), got 1.0"),
        (0.9, {"smoothing": -0.1}, "smoothing: expected a number in [0, 1), got -0.1"),
        (0.9, {"damping": -1.0}, "damping and warmup: expected finite numbers of at least 0, got -1.0 and 0"),
        (0.9, {"warmup": -1}, "damping and warmup: expected finite numbers of at least 0, got 3.0 and -1"),
        (0.9, {"reluctance": 0.5}, "reluctance: expected a finite number of at least 1, got 0.5"),
        (0.9, {"reluctance": math.inf}, "reluctance: expected a finite number of at least 1, got inf"),
        (0.9, {"bounds": (1.0, 0.5)}, "bounds: expected 0 <= smallest < largest, got (1.0, 0.5)"),
        (0.9, {"bounds": (-1.0, 0.5)}, "bounds: expected 0 <= smallest < largest, got (-1.0, 0.5)"),
        (0.9, {"bounds": (0.1, math.nan)}, "bounds: expected 0 <= smallest < largest, got (0.1, nan)"),
    ],
    ids=lambda value: ",".join(f"{name}={value[name]}" for name in value) if isinstance(value, dict) else "",
)
def test_options_are_checked(target, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DiscrepancyPrinciple(Penalty(), target, **options)


@pytest.mark.parametrize(
    ("target", "mode", "expected"),
    [
        ("97%", "max", "an accuracy as a fraction, such as 0.97, got '97%'"),
        ("0.97", "max", "an accuracy as a fraction, such as 0.97, got '0.97'"),
        (None, "max", "an accuracy as a fraction, such as 0.97, got None"),
        ("1.0", "lipschitz", "a number, got '1.0'"),
    ],
    ids=["percent", "text", "none", "constant"],
)
def test_a_target_that_is_no_number_is_refused(target, mode, expected):
    with pytest.raises(TypeError, match=f"^{re.escape(f'target: expected {expected}')}$"):
        DiscrepancyPrinciple(Penalty(), target, mode=mode)


@pytest.mark.parametrize("target", [np.float32(0.5), torch.tensor(0.5)], ids=["numpy", "torch"])
def test_a_target_may_be_another_package_s_number(target):
    assert float(DiscrepancyPrinciple(Penalty(), target).target) == 0.5


@pytest.mark.parametrize("damping", [math.nan, math.inf], ids=str)
def test_damping_must_be_finite(damping):
    with pytest.raises(ValueError, match=r"^damping.*: expected"):
        DiscrepancyPrinciple(Penalty(), 0.9, damping=damping)


@pytest.mark.parametrize(
    ("lam", "options"), [(0.0, {}), (1.0, {"bounds": (0.0, 1.0)})], ids=["lam is 0", "lam may reach 0"]
)
def test_the_multiplicative_rule_refuses_to_stand_still(lam, options):
    message = (
        "lam = 0 never moves under the multiplicative rule: "
        "start from lam > 0 with bounds above 0, or say rule='additive'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DiscrepancyPrinciple(Penalty(lam), 0.9, **options)


@pytest.mark.parametrize("penalty", [nn.Linear(1, 1), 0.1], ids=["module", "number"])
def test_a_penalty_without_lam_is_refused(penalty):
    message = (
        f"penalty: expected a module with a scalar buffer 'lam', such as cheaplip.CLIP, got {type(penalty).__name__}"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        DiscrepancyPrinciple(penalty, 0.9)


@pytest.mark.parametrize("metric", [math.nan, math.inf], ids=str)
def test_a_metric_that_is_not_finite_is_refused(metric):
    penalty, controller = controlled()
    with pytest.raises(ValueError, match=f"^metric: expected a finite number, got {metric}$"):
        controller.step(metric)
    assert penalty.lam.item() == 1.0


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="smothing"):
        DiscrepancyPrinciple(Penalty(), 0.9, smothing=0.5)


# The proportional part


@pytest.mark.parametrize("mode", ["max", "min"])
def test_gain_follows_the_error_and_takes_it_back(mode):
    """Without an accumulated part, λ depends on the error alone: exp(gain · error / width), at most two widths."""
    sign = 1 if mode == "max" else -1
    penalty, controller = controlled(mode=mode, gain=0.5, rate=1e-12, width=0.05, smoothing=0.0, damping=0.0)
    for error, expected in ((0.05, 0.5), (0.025, 0.25), (-0.05, -0.5), (0.2, 1.0), (0.0, 0.0)):
        controller.step(0.75 + sign * error)
        assert math.log(penalty.lam.item()) == pytest.approx(expected, abs=1e-9)


def test_gain_waits_until_the_target_is_met_and_warmup_is_over():
    penalty, controller = controlled(gain=0.5, rate=1e-12, width=0.05, smoothing=0.0, damping=0.0, warmup=2)
    expected = [(0.5, 0.0), (0.8, 0.0), (0.7, -0.5)]
    for metric, log_lam in expected:
        controller.step(metric)
        assert math.log(penalty.lam.item()) == pytest.approx(log_lam, abs=1e-9)
    young, controller = controlled(gain=0.5, rate=1e-12, width=0.05, smoothing=0.0, damping=0.0)
    controller.step(0.5)
    assert math.log(young.lam.item()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("gain", [-1.0, math.nan, math.inf], ids=str)
def test_gain_out_of_range(gain):
    with pytest.raises(ValueError, match="gain: expected a finite number of at least 0, got"):
        controlled(gain=gain)


# What is no accuracy


@pytest.mark.parametrize("shape", ["number", "tensor", "float64", "float16", "one element"])
@pytest.mark.parametrize("value", [97.0, 100, 1.5, 1.01, -0.1, -97.0])
def test_an_accuracy_that_is_no_fraction_is_refused(value, shape):
    metric = {
        "number": value,
        "tensor": torch.tensor(float(value)),
        "float64": torch.tensor(value, dtype=torch.float64),
        "float16": torch.tensor(value).half(),
        "one element": torch.tensor([float(value)]),
    }[shape]
    penalty, controller = controlled()
    with pytest.raises(
        ValueError, match=r"^metric: expected an accuracy in \[0, 1\], got .*: 97 % is 0\.97; for a loss"
    ):
        controller.step(metric)
    assert penalty.lam == 1.0


@pytest.mark.parametrize("metric", [0, 1, 0.0, 1.0, True, torch.tensor(1), torch.tensor(True), torch.tensor([0.5])])
def test_the_ends_of_the_range_are_accuracies(metric):
    penalty, controller = controlled()
    controller.step(metric)
    assert math.isfinite(penalty.lam)


@pytest.mark.parametrize("metric", [97.0, torch.tensor(97.0)])
def test_a_loss_may_be_large(metric):
    penalty, controller = controlled(0.5, mode="min")
    controller.step(metric)
    assert penalty.lam < 1.0


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (None, TypeError, "metric: expected a number or a tensor with one element, got NoneType: pass the accuracy"),
        ("97 %", TypeError, "metric: expected a number or a tensor with one element, got str: pass the accuracy or"),
        ({"acc": 0.9}, TypeError, "metric: expected a number or a tensor with one element, got dict: pass the"),
        (torch.ones(64), ValueError, "metric: expected one number, got shape (64,): pass its mean"),
        (torch.ones(0), ValueError, "metric: expected one number, got shape (0,): pass its mean"),
    ],
)
def test_what_is_no_number_is_refused(metric, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        controlled()[1].step(metric)


def test_on_the_device_an_accuracy_that_is_no_fraction_moves_nothing():
    penalty, controller = controlled(smoothing=0.0)
    controller.step(torch.tensor(controller.target))
    before = penalty.lam.clone()
    for _ in range(99):
        controller.step(torch.tensor(97.0))
    assert penalty.lam == before
    with pytest.raises(ValueError, match=r"^metric: expected an accuracy in \[0, 1\], got 97: 97 % is 0\.97"):
        controller.step(torch.tensor(97.0))


# A constant as the target


def steepened(constant, **options):
    clip = CLIP(PairSet(torch.tensor([[0.0, 0.0], [1.0, 1.0]])), lam=0.5)
    clip.largest.fill_(constant)
    return clip, DiscrepancyPrinciple(clip, 1.0, mode="lipschitz", smoothing=0.0, **options)


@pytest.mark.parametrize("given", [(), (None,), (lambda clip: clip.largest,), (lambda clip: float(clip.largest),)])
@pytest.mark.parametrize(("constant", "rises"), [(30.0, True), (1.1, True), (0.9, False), (0.0, False)])
def test_lam_rises_while_the_constant_is_above_the_target(constant, rises, given):
    clip, controller = steepened(constant)
    controller.step(*(value(clip) if callable(value) else value for value in given))
    assert (clip.lam > 0.5) == rises
    assert abs(math.log(clip.lam / 0.5)) <= 0.0100001


@pytest.mark.parametrize("rule", ["multiplicative", "additive"])
def test_a_constant_settles_on_its_target(rule):
    clip, controller = steepened(3.0, rule=rule, rate=0.01)
    for _ in range(2000):
        clip.largest.fill_(3 / (1 + float(clip.lam)))
        controller.step()
    assert float(clip.largest) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_constant_must_be_positive(target):
    with pytest.raises(ValueError, match=r"^target: expected a positive Lipschitz constant, got"):
        DiscrepancyPrinciple(Penalty(), target, mode="lipschitz")


def test_without_a_largest_quotient_there_is_nothing_to_steer():
    with pytest.raises(TypeError, match=r"^penalty: expected a module with a scalar buffer 'largest', such as"):
        DiscrepancyPrinciple(Penalty(), 1.0, mode="lipschitz")
