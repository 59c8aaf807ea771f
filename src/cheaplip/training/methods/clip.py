"""CLIP, the paper's method: λ times the largest difference quotient over pairs that move towards larger ones."""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from cheaplip.clip import CLIP, Aggregate
from cheaplip.distributed import ranks
from cheaplip.errors import BatchDependentLayerError, ConfigError
from cheaplip.modes import refuse_batch_dependent_layers
from cheaplip.pairs import Climb, PairSet, Start
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.models import is_perceptron
from cheaplip.training.options import SharedOptions, check_choice, check_positive, check_whole
from cheaplip.training.processes import hold_own_
from cheaplip.training.tasks import TASKS

__all__ = ["Clip", "ClipOptions", "every_for"]

_LONG_RUN = 2000  # steps of a run from which on not every step is regularised
_MOST_EVERY = 16  # the largest number k for which only each k-th step is regularised
_CLIMBS = 800  # regularised steps that a long run has at least: in each of them the pairs climb once


@dataclass(frozen=True, kw_only=True)
class ClipOptions(SharedOptions):
    """The options of CLIP."""

    lam: float | None = None
    """clip: the first λ; unset: 0.02 for regression, else 0.5 for mlp and linear, else 0.05"""
    pairs: int = 64
    """clip: number of pairs (the size of the paper's Lipschitz training set)"""
    start: Start = "noise"
    """clip: where pairs start: noise, uniform: two near points; data: two inputs; batch: nearest neighbours"""
    step: Climb = "power"
    """clip: how pairs climb to larger quotients; quotient is the paper's way"""
    step_size: float | None = None
    """clip: length of a pair's step, see cheaplip.PairSet"""
    renew: int = 1
    """clip: pairs with small quotients that are replaced by new ones at each training step; 0: none"""
    grace: int = 40
    """clip: training steps before a new pair can be replaced"""
    held_out: int = 0
    """clip: inputs held out to form pairs with noisy copies, as in the paper; 0: pairs start at training inputs"""
    aggregate: Aggregate | None = None
    """clip: how quotients become one number; unset: softmax, or mean with every above 1; max is the paper's"""
    every: int | None = None
    """clip: regularise each k-th step, with k times the weight; unset: 1 below 2,000 steps, else up to 16"""
    form: str = "joint"
    """clip: joint: pairs pass the network together with the batch; separate: in their own pass, for any model"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of CLIP is out of its range."""
        for name, kinds in (("start", Start), ("step", Climb), ("aggregate", Aggregate)):
            check_choice(name, getattr(self, name), get_args(kinds))
        check_choice("form", self.form, ("joint", "separate"))
        for name, least in (("pairs", 1), ("renew", 0), ("grace", 0), ("every", 1), ("held_out", 0)):
            check_whole(name, getattr(self, name), least)
        check_positive("step_size", self.step_size)
        self.check_first_weight("lam", self.lam)

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
            _check_joint(setting.network)
        groups = torch.split(setting.held_out, options.pairs)
        self.groups = nn.ModuleList([_pairs(part, len(part), setting) for part in groups if len(part)])
        pairs = self._group(0) if len(self.groups) else _pairs(setting.data.train.x, options.pairs, setting)
        hold_own_(pairs)
        self.first_lam = options.first_lam
        every = options.every or every_for(setting.steps)
        aggregate = options.aggregate or ("softmax" if every == 1 else "mean")
        self.penalty: CLIP = CLIP(pairs, self.first_lam, aggregate=aggregate, every=every).to(setting.device)

    @classmethod
    def holds_out(cls, options: SharedOptions) -> int:
        assert isinstance(options, ClipOptions)
        return options.held_out

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        if self.joint:
            output, penalty = self.penalty.joint(network, x)
            fit = self.loss(output, y)
        else:
            output = network(x)
            fit = self.loss(output, y)
            penalty = self.penalty(network)
        return Losses(fit + penalty, fit, output)

    def before_step(self, step: int) -> None:
        if len(self.groups):
            self.penalty.pairs = self._group(step)

    @property
    def pairs(self) -> PairSet:
        return self.penalty.pairs

    @property
    def largest(self) -> Tensor:
        return self.penalty.largest

    def state(self) -> dict[str, Any]:
        return {**super().state(), "parts": self.groups.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.groups.load_state_dict(state["parts"])  # after the penalty, whose pairs are one of the groups

    def _group(self, step: int) -> PairSet:
        """Return the pairs whose turn it is at a step."""
        pairs = self.groups[step % len(self.groups)]
        assert isinstance(pairs, PairSet)
        return pairs


def every_for(steps: int) -> int:
    """Return the k for which only each k-th step is regularised: 1 in short runs, up to 16 in longer ones.

    Args:
        steps: training steps of the whole run; at least 800 of them are regularised.
    """
    return min(_MOST_EVERY, steps // _CLIMBS) if steps >= _LONG_RUN else 1


def _pairs(x: Tensor, size: int, setting: Setting) -> PairSet:
    r"""Make ``size`` pairs that start at the inputs ``x``, (N, \*shape)."""
    options = setting.options_of(ClipOptions)
    return PairSet(
        x,
        size=size,
        domain=setting.data.domain,
        start=options.start,
        step=options.step,
        step_size=options.step_size,
        renew=options.renew,
        grace=options.grace,
        generator=setting.noise,
    )


def _check_joint(network: nn.Module) -> None:
    try:
        refuse_batch_dependent_layers(network)
    except BatchDependentLayerError as error:
        raise ConfigError(f"form: this model needs --form separate, for it cannot take joint: {error}") from error
