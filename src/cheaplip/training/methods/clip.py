"""CLIP, the paper's method: λ times the largest difference quotient over pairs that move towards larger ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip import CLIP
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.distributed import ranks
from cheaplip.errors import ConfigError
from cheaplip.pairs import PairSet
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.methods.pair_options import PairOptions, check_joint, make_pairs
from cheaplip.training.methods.penalised import LamOptions
from cheaplip.training.models import is_perceptron
from cheaplip.training.options import SharedOptions, check_positive, check_whole
from cheaplip.training.processes import hold_own_
from cheaplip.training.tasks import TASKS

__all__ = ["Clip", "ClipOptions", "every_for"]

_LONG_RUN = 2000  # steps of a run from which on not every step is regularised
_MOST_EVERY = 16  # the largest number k for which only each k-th step is regularised
_SLOW = 10  # memories of the quotients' moving average in which λ may change by a factor of e, when it follows them
_CLIMBS = 800  # regularised steps that a long run has at least: in each of them the pairs climb once


@dataclass(frozen=True, kw_only=True)
class ClipOptions(PairOptions, LamOptions):
    """The options of CLIP."""

    target_lipschitz: float | None = None
    """clip: the Lipschitz constant that λ is moved to reach, instead of an accuracy; for critics and control, say 1"""
    held_out: int = 0
    """clip: inputs held out to form pairs with noisy copies, as in the paper; 0: pairs start at training inputs"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of CLIP is out of its range."""
        PairOptions.check(self)
        check_whole("held_out", self.held_out, 0)
        check_positive("target_lipschitz", self.target_lipschitz)
        LamOptions.check(self)
        if self.target_lipschitz is not None and self.lam == 0:
            raise ConfigError("lam: 0 can never move towards --target-lipschitz: start above 0")

    @property
    def first_lam(self) -> float:
        """The first λ: the option, or else the default of the task or of the model."""
        if self.lam is not None:
            return self.lam
        of_task = TASKS[self.task].first_lam
        if of_task is not None:
            return of_task
        return 0.5 if self.model == "linear" or is_perceptron(self.model) else 0.05


class Clip(Method):
    """Minimise the loss plus λ times the largest quotient over pairs that climb, with λ steered to the target.

    With the option ``held_out`` the pairs are those of the paper: training inputs that are held out and noisy copies of
    them, split into groups that take turns.
    """

    name = "clip"
    adds = "the loss + λ times a smooth maximum, or the mean, of the difference quotients of pairs"
    cost = "1 + 2·pairs / (batch size · every)"
    group = "penalties on difference quotients"
    source = "Bungert et al. 2021, Algorithm 2"
    options = ClipOptions
    steered = True
    same_noise = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(ClipOptions)
        if options.held_out and ranks() > 1:
            raise ConfigError("held_out: works in one process only: train without torchrun, or use --held-out 0")
        if options.pairs % ranks():
            raise ConfigError(f"pairs: expected a multiple of the number of processes ({ranks()}), got {options.pairs}")
        self.joint = options.form == "joint"
        if self.joint:
            check_joint(setting.network)
        groups = torch.split(setting.held_out, options.pairs)
        self.groups = nn.ModuleList([make_pairs(part, len(part), setting) for part in groups if len(part)])
        pairs = self._group(0) if len(self.groups) else make_pairs(setting.data.train.x, options.pairs, setting)
        hold_own_(pairs)
        self.first_lam: float | None = options.first_lam
        every = options.every or every_for(setting.steps)
        aggregate = options.aggregate or ("softmax" if every == 1 else "mean")
        self.penalty: CLIP = CLIP(pairs, options.first_lam, aggregate=aggregate, every=every).to(setting.device)
        self.steering: DiscrepancyPrinciple | None = None
        if options.target_lipschitz is not None:
            self.first_lam = None  # λ follows the quotients, and so no accuracy
            self.steering = _steering(self.penalty, options.target_lipschitz, setting)

    @classmethod
    def holds_out(cls, options: SharedOptions) -> int:
        assert isinstance(options, ClipOptions)
        return options.held_out

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        if self.steering is not None and self.penalty.calls > 0:
            self.steering.step()  # by the largest quotient of the step before
        if self.joint:
            output, penalty = self.penalty.joint(network, x)
            fit = self.loss(output, y)
        else:
            output = network(x)
            fit = self.loss(output, y)
            penalty = self.penalty(network)
        return Losses(fit + penalty, fit, output)

    def before_step(self, step: int, rows: Tensor) -> None:
        del rows
        if len(self.groups):
            self.penalty.pairs = self._group(step)

    @property
    def pairs(self) -> PairSet:
        return self.penalty.pairs

    @property
    def largest(self) -> Tensor:
        return self.penalty.largest

    def state(self) -> dict[str, Any]:
        steering = None if self.steering is None else self.steering.state_dict()
        return {**super().state(), "parts": self.groups.state_dict(), "steering": steering}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.groups.load_state_dict(state["parts"])  # after the penalty, whose pairs are one of the groups
        if self.steering is not None:
            self.steering.load_state_dict(state["steering"])

    def _group(self, step: int) -> PairSet:
        """Return the pairs whose turn it is at a step."""
        pairs = self.groups[step % len(self.groups)]
        assert isinstance(pairs, PairSet)
        return pairs


def _steering(penalty: CLIP, target: float, setting: Setting) -> DiscrepancyPrinciple:
    """Make the controller that moves λ until the largest quotient is ``target``, at a speed that suits the run.

    Args:
        penalty: its λ is moved.
        target: in the labels' units for regression.
        setting: the run.
    """
    _, scale = setting.task.unwrap(setting.task.wrap(nn.Identity(), setting.data.train.y))
    memory = min(100.0, max(10.0, setting.steps / 60))
    first = float(penalty.lam)
    return DiscrepancyPrinciple(
        penalty,
        target / scale,
        mode="lipschitz",
        rate=1 / (_SLOW * memory),
        gain=0.5,
        smoothing=1 - 1 / memory,
        bounds=(1e-3 * first, 1e3 * first),
    )


def every_for(steps: int) -> int:
    """Return the k for which only each k-th step is regularised: 1 in short runs, up to 16 in longer ones.

    Args:
        steps: training steps of the whole run; at least 800 of them are regularised.
    """
    return min(_MOST_EVERY, steps // _CLIMBS) if steps >= _LONG_RUN else 1
