"""The discrepancy principle: λ rises while the target is met and falls while it is missed."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cheaplip.distributed import average

__all__ = ["DiscrepancyPrinciple", "Mode", "Rule"]

Mode = Literal["max", "min"]
Rule = Literal["multiplicative", "additive"]

_PATIENCE = 3.0  # factor of the damping until the target is first met: a young network improves slowly


class DiscrepancyPrinciple:
    r"""Steers the weight ``lam`` of a penalty so that a metric meets its target.

    Used like a learning-rate scheduler: call :meth:`step` with the batch's accuracy at every step, or with the
    epoch's at every epoch (then with ``smoothing=0`` and a ``rate`` near 0.5). While the metric is better than the
    target λ rises, while it is worse λ falls.

    The multiplicative rule moves log λ by ``rate`` times the error in units of ``width``, at most ``rate``, on a
    moving average of the metric. It does not wind up: while the average is heading for the target anyway, and its
    trend would close the gap, λ waits (and waits longer before the target is first met). The additive rule is the
    paper's: λ ± ``rate``.

    Where a lazy penalty (:class:`CLIP` with ``every`` above 1) will not look at λ before the next metric comes, metrics
    are only collected: when λ is needed again, it moves by their mean, as far as it would have moved in as many steps.

    Args:
        penalty: any module with a scalar buffer ``lam``, such as :class:`CLIP`.
        target: the metric's target; an accuracy in (0, 1) with ``mode="max"``, a positive loss with ``mode="min"``.
        mode: ``"max"``: met from above (accuracy); ``"min"``: met from below (a loss: Morozov's principle).
        rule: ``"multiplicative"`` or ``"additive"``.
        rate: largest change of log λ in a step (multiplicative), or of λ (additive).
        smoothing: weight of the past in the metric's moving average, in [0, 1). None: 0.99; 0 for the additive rule.
        width: error at which the multiplicative rule moves at full ``rate``. None: a quarter of the distance
            between the target and a perfect metric.
        gain: how strongly log λ also follows the error itself, in units of ``width`` and up to two of them, once the
            target has been met; 0 leaves the accumulated part alone.
        damping: how far the trend is extrapolated, in units of the moving average's memory; 0 switches it off.
        warmup: steps at the start during which λ is held.
        reluctance: how much slower than by ``rate`` λ falls until the target is first met, 1 or more (multiplicative
            rule): where plain training takes long to meet it, that is not λ's doing.
        bounds: smallest and largest λ.

    Raises:
        ValueError: an option is out of range, or λ cannot move from where it stands.
        TypeError: ``penalty`` has no buffer ``lam``.

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
        mode: Mode = "max",
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
        for name, value, kinds in (("mode", mode, get_args(Mode)), ("rule", rule, get_args(Rule))):
            if value not in kinds:
                raise ValueError(f"{name}: expected one of {', '.join(kinds)}, got {value!r}")
        if mode == "max" and not 0 < target < 1:
            raise ValueError(
                f"target: expected an accuracy in (0, 1), got {target}: 97 % is 0.97; for a loss say mode='min'"
            )
        if mode == "min" and not (math.isfinite(target) and target > 0):
            raise ValueError(f"target: expected a positive loss, got {target}")
        smoothing = (0.99 if rule == "multiplicative" else 0.0) if smoothing is None else smoothing
        width = (1 - target if mode == "max" else target) / 4 if width is None else width
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
        self.mode: Mode = mode
        self.rule: Rule = rule
        self.rate = rate
        self.smoothing = smoothing
        self.width = width
        self.gain = gain
        self.damping = damping
        self.warmup = warmup
        self.reluctance = reluctance
        self.bounds = bounds
        starts = {"steps": 0.0, "lean": 0.0, "sum": 0.0, "collected": 0.0}
        self._state = {name: torch.full_like(lam, start) for name, start in starts.items()}
        self._state["averages"] = lam.new_full((2,), target)  # the metric's, and one of twice the memory
        self._state["met"] = torch.zeros_like(lam, dtype=torch.bool)
        self._calls = 0  # of the penalty, when it was last asked
        # numbers as tensors cost an operation less each
        sign = 1.0 if mode == "max" else -1.0
        self._constants = {
            name: torch.tensor(number, dtype=lam.dtype, device=lam.device)
            for name, number in {
                "pasts": [smoothing, (1 + smoothing) / 2],
                "signs": [[sign, 0.0], [sign, -sign]],  # error and trend, of the two averages
                "offsets": [-sign * target, 0.0],
                "damping": damping,
                "patience": _PATIENCE * damping,
                "up": rate,
                "down": -rate,
                "nothing": 0.0,
                "one": 1.0,
            }.items()
        }

    @property
    def average(self) -> Tensor:
        """The metric's moving average, a scalar on the penalty's device."""
        return self._state["averages"][0]

    def step(self, metric: float | Tensor, *, pace: float = 1.0) -> None:
        """Take the metric of a step or an epoch and move λ; a tensor costs no synchronisation.

        Args:
            metric: accuracy or loss; its mean over ranks counts under ``torch.distributed``.
            pace: how fast the model learns now, such as the learning rate over its peak. λ moves in proportion: when
                the model answers slowly, a λ that kept its pace would overshoot.

        Raises:
            ValueError: a metric given as a number is not finite.
        """
        lam, total, count = self.penalty.lam, self._state["sum"], self._state["collected"]
        assert isinstance(lam, Tensor)
        if isinstance(metric, Tensor):
            metric = metric.detach()
        elif not math.isfinite(metric):
            raise ValueError(f"metric: expected a finite number, got {metric}")
        if lam.device != total.device or lam.dtype != total.dtype:
            self._follow(lam)
            total, count = self._state["sum"], self._state["collected"]
        value = torch.as_tensor(metric, dtype=lam.dtype).to(lam.device, non_blocking=True)
        total.add_(average(value))
        count.add_(self._constants["one"])
        if not self._can_wait():
            self._move(lam, total, count, pace)

    @torch.no_grad()
    def _move(self, lam: Tensor, total: Tensor, count: Tensor, pace: float) -> None:
        """Move λ by the mean of the metrics collected."""
        state, constants = self._state, self._constants
        steps, averages = state["steps"], state["averages"]
        value, largest = total / count, torch.finfo(lam.dtype).max
        sound = value == value.clamp(-largest, largest)  # an overflowed step says nothing
        value, fresh = torch.where(sound, value, averages[0]), count / steps.add_(count)
        averages.lerp_(value, torch.maximum(fresh, 1 - constants["pasts"].pow(count)))
        error, trend = torch.addmv(constants["offsets"], constants["signs"], averages).unbind()
        if self.rule == "additive":
            change, speed = torch.where(error > constants["nothing"], constants["up"], constants["down"]), 1.0
        else:
            state["met"].logical_or_(error >= constants["nothing"])
            ahead = torch.addcmul(error, trend, torch.where(state["met"], constants["damping"], constants["patience"]))
            low, high = error.clamp(-self.width, 0.0), error.clamp(0.0, self.width)
            change, speed = ahead.clamp(low, high), self.rate / self.width  # a gap that the trend closes is no gap
            if self.reluctance > 1:
                change = torch.where(state["met"], change, change / self.reluctance)
            if self.gain > 0:
                live = state["met"] if self.warmup == 0 else state["met"].logical_and(steps > self.warmup)
                lean = error.clamp(-2 * self.width, 2 * self.width).where(live, constants["nothing"])
                lam.mul_(((lean - state["lean"]) * (self.gain / self.width)).exp())
                state["lean"].copy_(lean)
        if self.warmup > 0:
            change = torch.where(steps > self.warmup, change, constants["nothing"])
        if torch.compiler.is_compiling():
            change = change * pace  # a number that changes from step to step must not be part of a graph
        else:
            speed *= pace
        if self.rule == "additive":
            lam.addcmul_(change, count, value=speed)
        else:
            lam.mul_(torch.addcmul(constants["nothing"], change, count, value=speed).exp())
        lam.clamp_(*self.bounds)
        total.zero_()
        count.zero_()

    def _can_wait(self) -> bool:
        """Whether the penalty leaves λ alone until the next metric, if metrics keep coming with each of its calls."""
        due = getattr(self.penalty, "due", True)
        if torch.compiler.is_compiling():  # a count of calls is none of a graph's business
            return not due
        before, self._calls = self._calls, getattr(self.penalty, "calls", 0)
        return not due and self._calls == before + 1

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes, in scalars and two averages (λ itself is the penalty's)."""
        state = {name: value.clone() for name, value in self._state.items()}
        return {**state, "steps": state["steps"].long(), "calls": torch.tensor(self._calls)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: something is missing, as in the state of another version.
        """
        if missing := sorted({*self._state, "calls"} - state.keys()):
            raise ValueError(
                f"expected the state of a DiscrepancyPrinciple of this version: {', '.join(missing)} missing"
            )
        for name, value in self._state.items():
            value.copy_(state[name])
        self._calls = int(state["calls"])

    def _follow(self, lam: Tensor) -> None:
        """Keep numbers where λ is, and of its type."""
        for name, value in self._state.items():
            self._state[name] = value.to(lam.device) if name == "met" else value.to(lam)
        self._constants = {name: value.to(lam) for name, value in self._constants.items()}
