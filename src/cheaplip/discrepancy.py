"""The discrepancy principle: λ is moved here. It rises while the target is met, and falls while it is missed.

The file is long because half of it is the documentation and the checks of options and metrics; the rule is one class.
"""

import math
from dataclasses import dataclass
from typing import Literal, SupportsFloat, get_args

import torch
from torch import Tensor, nn

from cheaplip.distributed import average, ranks

__all__ = ["DiscrepancyPrinciple", "MetricMode", "Rule"]

MetricMode = Literal["max", "min", "lipschitz"]
"""What is steered: a metric that is better the larger it is (an accuracy), one that is better the smaller it is (a
loss), or the largest quotient itself."""

Rule = Literal["multiplicative", "additive"]
"""How λ moves: by a factor, or by a summand."""

_SLACK = 1e-6  # a mean of accuracies may be above 1 by rounding
_LOOK_EVERY = 100  # steps between looks at metrics that are tensors: on a GPU, a look waits for the value
_PATIENCE = 3.0  # factor of the damping until the target is first met: a young network improves slowly


class DiscrepancyPrinciple:
    r"""Steers the weight ``lam`` of a penalty so that a metric meets its target.

    Use it like a learning-rate scheduler: call :meth:`step` with the batch's accuracy after every training step, or
    with the epoch's accuracy after every epoch (then with ``smoothing=0`` and a ``rate`` near 0.5). While the metric is
    better than the target, λ rises; while it is worse, λ falls.

    The multiplicative rule looks at two numbers: the *error*, which is how much better than the target the moving
    average of the metric is, and the *trend*, which is how fast that average is improving. It changes log λ by
    ``rate`` times the error in units of ``width``, and by ``rate`` at most. While the trend is about to close the gap
    to the target, λ waits; before the target is first met, it waits longer. Without this waiting, λ would overshoot.

    The additive rule is the paper's: λ + ``rate`` if the metric is better than the target, λ − ``rate`` otherwise.

    With ``mode="lipschitz"`` the target is a Lipschitz constant, and accuracy plays no part: λ rises while the largest
    quotient of the pairs is above the target, and falls while it is below. Call :meth:`step` without a metric. Critics
    and controllers, which need a constant of about 1, are trained like this. The quotient is found by search, so the
    constant may be a little larger; :func:`cheaplip.bracket` proves an upper bound.

    A lazy penalty (:class:`CLIP` with ``every`` above 1) uses λ only at some of its calls. The metrics of the steps
    between are collected. Before λ is used again, it moves by their mean, as far as it would have moved in as many
    steps.

    Args:
        penalty: any module with a scalar buffer ``lam``, such as :class:`CLIP`.
        target: the metric's target; an accuracy in (0, 1) with ``mode="max"``, a positive loss with ``mode="min"``, a
            positive constant with ``mode="lipschitz"``.
        mode: ``"max"`` if the target is met from above (an accuracy), ``"min"`` if it is met from below (a loss, as in
            Morozov's principle), ``"lipschitz"`` if it is a Lipschitz constant, met from both sides.
        rule: ``"multiplicative"`` or ``"additive"``.
        rate: largest change of log λ in a step (multiplicative), or of λ (additive).
        smoothing: weight of the past in the metric's moving average, in [0, 1). None: 0.99; 0 for the additive rule.
        width: error at which the multiplicative rule moves at full ``rate``. None: a quarter of the distance
            between the target and a perfect metric. Of a constant, the error is the logarithm of its quotient with the
            target, and the default 1: a factor of e.
        gain: change of log λ for an error of one ``width``, on top of the change that accumulates from step to step,
            and taken back when the error vanishes. It acts for errors up to two widths, once the target has been met
            (multiplicative rule); 0 switches it off.
        damping: how far ahead the trend is extrapolated, in units of the moving average's memory; 0 switches the
            waiting off.
        warmup: number of steps at the start during which λ is held.
        reluctance: factor by which λ falls more slowly until the target is first met, at least 1 (multiplicative
            rule). Training without a penalty may take long to meet the target, too: λ is not what is in its way.
        bounds: smallest and largest λ. None: (1e-4, 1e4); (0, inf) for the additive rule.

    Raises:
        ValueError: an option is out of range, or λ is 0 and the multiplicative rule could never move it.
        TypeError: ``penalty`` has no buffer ``lam``, or the target is no number.

    Reference:
        Bungert et al. 2021, Algorithm 2, last lines (additive); the multiplicative rule is ours.

    Example:
        >>> import torch
        >>> from cheaplip import CLIP, PairSet
        >>> clip = CLIP(PairSet(torch.rand(8, 2)), lam=0.1)
        >>> controller = DiscrepancyPrinciple(clip, target=0.9, rule="additive", rate=0.01)
        >>> controller.step(0.95)
        >>> round(clip.lam.item(), 3)
        0.11
    """

    def __init__(
        self,
        penalty: nn.Module,
        target: float,
        *,
        mode: MetricMode = "max",
        rule: Rule = "multiplicative",
        rate: float = 0.01,
        smoothing: float | None = None,
        width: float | None = None,
        gain: float = 0.0,
        damping: float = 3.0,
        warmup: int = 0,
        reluctance: float = 1.0,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        lam = getattr(penalty, "lam", None)
        if not isinstance(lam, Tensor):
            raise TypeError(
                "penalty: expected a module with a scalar buffer 'lam', such as cheaplip.CLIP, "
                f"got {type(penalty).__name__}"
            )
        for name, value, kinds in (("mode", mode, get_args(MetricMode)), ("rule", rule, get_args(Rule))):
            if value not in kinds:
                raise ValueError(f"{name}: expected one of {', '.join(kinds)}, got {value!r}")
        if not isinstance(target, SupportsFloat):
            kind = "an accuracy as a fraction, such as 0.97" if mode == "max" else "a number"
            raise TypeError(f"target: expected {kind}, got {target!r}")
        if mode == "max" and not 0 < target < 1:
            raise ValueError(
                f"target: expected an accuracy in (0, 1), got {target}: 97 % is 0.97; for a loss say mode='min'"
            )
        if mode != "max" and not (math.isfinite(target) and target > 0):
            kind = "loss" if mode == "min" else "Lipschitz constant"
            raise ValueError(f"target: expected a positive {kind}, got {target}")
        if mode == "lipschitz" and not isinstance(getattr(penalty, "largest", None), Tensor):
            raise TypeError(
                "penalty: expected a module with a scalar buffer 'largest', such as cheaplip.CLIP, for "
                f"mode='lipschitz', got {type(penalty).__name__}"
            )
        smoothing = (0.99 if rule == "multiplicative" else 0.0) if smoothing is None else smoothing
        if width is None:
            width = 1.0 if mode == "lipschitz" else (1 - target if mode == "max" else target) / 4
        bounds = ((1e-4, 1e4) if rule == "multiplicative" else (0.0, math.inf)) if bounds is None else bounds
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing: expected a number in [0, 1), got {smoothing}")
        for name, number in (("rate", rate), ("width", width)):
            if not (math.isfinite(number) and number > 0):
                raise ValueError(f"{name}: expected a positive number, got {number}")
        if not 0 <= damping < math.inf or warmup < 0:
            raise ValueError(f"damping and warmup: expected finite numbers of at least 0, got {damping} and {warmup}")
        if not 0 <= gain < math.inf:
            raise ValueError(f"gain: expected a finite number of at least 0, got {gain}")
        if not 1 <= reluctance < math.inf:
            raise ValueError(f"reluctance: expected a finite number of at least 1, got {reluctance}")
        if not 0 <= bounds[0] < bounds[1]:
            raise ValueError(f"bounds: expected 0 <= smallest < largest, got {bounds}")
        if rule == "multiplicative" and (bounds[0] <= 0 or not float(lam) > 0):
            raise ValueError(
                "lam = 0 never moves under the multiplicative rule: "
                "start from lam > 0 with bounds above 0, or say rule='additive'"
            )
        self.penalty = penalty
        self.target = target
        self.mode: MetricMode = mode
        self.rule: Rule = rule
        self.rate = rate
        self.smoothing = smoothing
        self.width = width
        self.gain = gain
        self.damping = damping
        self.warmup = warmup
        self.reluctance = reluctance
        self.bounds = bounds
        self._memory = _Memory(
            steps=torch.zeros_like(lam),
            sum=torch.zeros_like(lam),
            collected=torch.zeros_like(lam),
            averages=lam.new_full((2,), target),
            met=torch.full_like(lam, mode == "lipschitz", dtype=torch.bool),  # of a constant there is no better side
            lean=torch.zeros_like(lam),
        )
        self._one, self._pasts = self._constants(lam)
        self._calls = 0  # of the penalty, when step() was last called
        self._looks = 0  # metrics that were tensors

    @property
    def average(self) -> Tensor:
        """The metric's moving average, a scalar on the penalty's device."""
        return self._memory.averages[0]

    def step(self, metric: float | Tensor | None = None, *, pace: float = 1.0) -> None:
        """Take in the metric of a step or an epoch, and move λ.

        A metric that is a tensor stays on its device: the host does not wait for its value, except for the first and
        every hundredth, which are checked. An accuracy outside [0, 1] that is not looked at moves nothing, as NaN does.

        Args:
            metric: accuracy, a fraction in [0, 1], or loss; a number or a tensor with one element. None, with
                ``mode="lipschitz"`` alone: the largest quotient that the penalty saw last. Under ``torch.distributed``
                every rank passes its own, and their mean counts.
            pace: how fast the model learns now, such as the learning rate over its largest value. λ moves in
                proportion: a λ that moved as fast as before would overshoot while the model changes slowly.

        Raises:
            TypeError: the metric is neither a number nor a tensor.
            ValueError: a metric given as a number is not finite, an accuracy is not in [0, 1], or a tensor has more
                than one element.
        """
        lam = self.penalty.lam
        assert isinstance(lam, Tensor)
        if metric is None and self.mode == "lipschitz":
            metric = self.penalty.get_buffer("largest")
        if isinstance(metric, Tensor):
            if metric.numel() != 1:
                raise ValueError(f"metric: expected one number, got shape {tuple(metric.shape)}: pass its mean")
            value = average(metric.detach().reshape(()).to(lam.device, lam.dtype, non_blocking=True))
            self._look_at(value)
        else:
            number = self._number(metric)
            value = average(torch.tensor(number, dtype=lam.dtype).to(lam.device, non_blocking=True))
            if ranks() == 1:  # of several, one may have more than its share
                self._check_fraction(number)
        memory = self._memory
        if lam.device != memory.sum.device or lam.dtype != memory.sum.dtype:
            memory = self._memory = memory.to(lam)
            self._one, self._pasts = self._constants(lam)
        memory.sum.add_(value)
        memory.collected.add_(self._one)
        if not self._can_wait():
            self._move_(lam, pace)

    def _number(self, metric: object) -> float:
        """Return a metric that is not a tensor as a number, if it can be one."""
        try:
            number = float(metric)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise TypeError(
                f"metric: expected a number or a tensor with one element, got {type(metric).__name__}: pass the "
                "accuracy or loss of the step; only with mode='lipschitz' it can be left out"
            ) from None
        if not math.isfinite(number):
            raise ValueError(f"metric: expected a finite number, got {number}")
        return number

    def _look_at(self, metric: Tensor) -> None:
        """Check a metric that is a tensor now and then, for it may cost waiting for its value."""
        if torch.compiler.is_compiling() or self.mode != "max":
            return
        if self._looks % _LOOK_EVERY == 0 and not torch.equal(metric, metric.clamp(0.0, 1 + _SLACK)):
            self._check_fraction(float(metric))
        self._looks += 1

    def _check_fraction(self, value: float) -> None:
        """Refuse an accuracy outside [0, 1]; NaN, which says nothing, may pass."""
        if self.mode == "max" and (value < 0 or value > 1 + _SLACK):
            raise ValueError(
                f"metric: expected an accuracy in [0, 1], got {value:g}: 97 % is 0.97; for a loss say mode='min'"
            )

    def _can_wait(self) -> bool:
        """Whether the penalty leaves λ alone until the next metric, if metrics keep coming with each of its calls."""
        due = getattr(self.penalty, "due", True)
        if torch.compiler.is_compiling():  # a graph cannot count calls
            return not due
        before, self._calls = self._calls, getattr(self.penalty, "calls", 0)
        return not due and self._calls == before + 1

    @torch.no_grad()
    def _move_(self, lam: Tensor, pace: float) -> None:
        """Move λ by the mean of the metrics collected, as far as in as many steps as there are metrics."""
        memory = self._memory
        count = memory.collected
        error, trend = self._error_and_trend(memory.sum / count, count)
        if self.rule == "additive":
            change = torch.full_like(error, -self.rate).masked_fill_(error > 0, self.rate)
        else:
            memory.met.logical_or_(error >= 0)
            change = self._multiplicative_change(error, trend)
            if self.gain > 0:
                self._follow_error_(lam, error)
        if self.warmup > 0:
            change = change.masked_fill(memory.steps <= self.warmup, 0.0)
        if self.rule == "additive":
            lam.addcmul_(change * pace, count)
        else:
            lam.mul_((self.rate / self.width * pace * change * count).exp())
        lam.clamp_(*self.bounds)
        memory.sum.zero_()
        count.zero_()

    def _error_and_trend(self, metric: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Take the mean of ``count`` metrics into the moving averages.

        Returns:
            error: how much better than the target the metric's average is; negative where it is worse.
            trend: how much better than the longer average it is; negative where the metric is getting worse.
        """
        memory = self._memory
        averages, largest = memory.averages, torch.finfo(metric.dtype).max
        least, most = (0.0, 1 + _SLACK) if self.mode == "max" else (-largest, largest)
        finite = metric == metric.clamp(least, most)  # an overflowed step says nothing; NaN equals nothing
        metric = torch.where(finite, metric, averages[0])
        share = count / memory.steps.add_(count)  # of the new metrics in a plain mean, with which both averages start
        averages.lerp_(metric, torch.maximum(share, 1 - self._pasts.pow(count)))
        short, long = averages.unbind()
        if self.mode == "min":
            return self.target - short, long - short
        if self.mode == "lipschitz":  # log λ acts on the logarithm of the constant
            tiny = torch.finfo(short.dtype).tiny
            ratio = (short.clamp_min(tiny) / self.target).log()
            return ratio, (short.clamp_min(tiny) / long.clamp_min(tiny)).log()
        return short - self.target, short - long

    def _multiplicative_change(self, error: Tensor, trend: Tensor) -> Tensor:
        """The error that log λ is to follow, at most ``width`` in size; 0 while the trend is about to close the gap."""
        met = self._memory.met
        horizon = torch.full_like(trend, _PATIENCE * self.damping).masked_fill_(met, self.damping)
        ahead = torch.addcmul(error, trend, horizon)  # error + trend · horizon
        # between 0 and the error, cut off at ``width``: 0 once the trend leads past the target
        change = ahead.clamp(error.clamp(-self.width, 0.0), error.clamp(0.0, self.width))
        return torch.where(met, change, change / self.reluctance) if self.reluctance > 1 else change

    def _follow_error_(self, lam: Tensor, error: Tensor) -> None:
        """Let log λ lean with the error itself, once the target has been met."""
        memory = self._memory
        live = memory.met if self.warmup == 0 else memory.met.logical_and(memory.steps > self.warmup)
        lean = error.clamp(-2 * self.width, 2 * self.width).masked_fill(~live, 0.0)
        lam.mul_(((lean - memory.lean) * (self.gain / self.width)).exp())
        memory.lean.copy_(lean)

    def _constants(self, lam: Tensor) -> tuple[Tensor, Tensor]:
        """1, and the weights of the past in the two moving averages, (2,): the second forgets half as fast."""
        # A waiting step of 8 µs adds 1 to a count: 1.1 µs if it is a tensor, 2.8 µs if it is a number.
        return torch.ones_like(lam), lam.new_tensor([self.smoothing, (1 + self.smoothing) / 2])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes, as tensors. λ itself is not among them: it is the penalty's."""
        state = {name: value.clone() for name, value in vars(self._memory).items()}
        return {**state, "steps": state["steps"].long(), "calls": torch.tensor(self._calls)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: an entry is missing.
        """
        memory = vars(self._memory)
        if missing := sorted({*memory, "calls"} - state.keys()):
            raise ValueError(
                f"state: expected what DiscrepancyPrinciple.state_dict() returns, got one without {', '.join(missing)}"
            )
        for name, value in memory.items():
            value.copy_(state[name])
        self._calls = int(state["calls"])


@dataclass
class _Memory:
    """What the controller remembers from step to step, on λ's device; checkpoints use the same names.

    Attributes:
        steps: number of metrics taken in.
        sum: of the metrics collected since λ last moved.
        collected: how many they are.
        averages: (2,), moving averages of the metric; the second has twice the memory of the first.
        met: bool, whether the target has been met.
        lean: the error that log λ leans with now, where there is a gain.
    """

    steps: Tensor
    sum: Tensor
    collected: Tensor
    averages: Tensor
    met: Tensor
    lean: Tensor

    def to(self, lam: Tensor) -> "_Memory":
        """On the device of λ, and all but ``met`` in its type."""
        return _Memory(
            **{name: value.to(lam.device, None if name == "met" else lam.dtype) for name, value in vars(self).items()}
        )
