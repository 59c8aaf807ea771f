"""CLIP: the paper's method, λ times the largest quotient over pairs that climb."""

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
from cheaplip.training.options import SharedOptions, check_choice, check_positive, check_whole
from cheaplip.training.processes import hold_own_
from cheaplip.training.tasks import TASKS

__all__ = ["Clip", "ClipOptions", "every_for"]

_MOST_STEPS = 16  # between two that regularise
_CLIMBS = 800  # that pairs need, at least
_LONG_RUN = 2000  # steps from which some may be left out


@dataclass(frozen=True, kw_only=True)
class ClipOptions(SharedOptions):
    """The options of CLIP."""

    lam: float | None = None
    """clip: λ at the start; unset: 0.5 for mlp and linear, 0.05 otherwise, 0.02 for regression"""
    pairs: int = 64
    """size of the Lipschitz training set"""
    start: Start = "noise"
    """where pairs start"""
    step: Climb = "power"
    """how pairs climb; quotient is the paper's"""
    step_size: float | None = None
    """length of a climb, see PairSet"""
    renew: int = 1
    """pairs replaced at each training step; 0 switches the tournament off"""
    grace: int = 40
    """training steps before a newcomer can be replaced"""
    held_out: int = 0
    """clip: training inputs held out; they and noisy copies are the pairs, in turns of --pairs a step (the paper's)"""
    aggregate: Aggregate | None = None
    """from quotients to the penalty; unset: mean where steps are left out, else softmax; max is the paper's"""
    every: int | None = None
    """regularise each k-th step with k times the weight; unset: 1 below 2,000 steps, else up to 16, for 800 climbs"""
    form: str = "joint"
    """joint: pairs share the batch's pass; separate: a pass of their own, for any model"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` unless every option of CLIP is in its range."""
        for name, kinds in (("start", Start), ("step", Climb), ("aggregate", Aggregate)):
            check_choice(name, getattr(self, name), get_args(kinds))
        check_choice("form", self.form, ("joint", "separate"))
        for name, least in (("pairs", 1), ("renew", 0), ("grace", 0), ("every", 1), ("held_out", 0)):
            check_whole(name, getattr(self, name), least)
        check_positive("step_size", self.step_size)
        self.check_first_weight("lam", self.lam)

    @property
    def first_lam(self) -> float:
        """λ at the start."""
        if self.lam is not None:
            return self.lam
        of_task = TASKS[self.task].first_lam
        if of_task is not None:
            return of_task
        return 0.5 if self.model == "linear" or self.model.startswith("mlp:") else 0.05


class Clip(Method):
    """The loss plus λ·Lip(f), with Lip(f) the largest quotient over pairs that climb, λ steered to the target.

    With ``held_out`` the pairs are the paper's: training inputs kept back and noisy copies of them, in turns.
    """

    name = "clip"
    adds = "λ times the largest quotient over pairs that climb"
    cost = "1 + 2·pairs / (batch size · every)"
    source = "Bungert et al. 2021, Algorithm 2"
    options = ClipOptions
    steered = True
    same_noise = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(ClipOptions)
        if options.held_out and ranks() > 1:
            raise ConfigError("held_out: works in one process only: train without torchrun, or say --held-out 0")
        if options.pairs % ranks():
            raise ConfigError(f"pairs: expected a multiple of the number of processes ({ranks()}), got {options.pairs}")
        self.joint = options.form == "joint"
        if self.joint:
            _check_joint(setting.network)
        turns = torch.split(setting.held_out, options.pairs)
        self.turns = nn.ModuleList([_pairs(part, len(part), setting) for part in turns if len(part)])
        pairs = self._turn(0) if len(self.turns) else _pairs(setting.data.train.x, options.pairs, setting)
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
        if len(self.turns):
            self.penalty.pairs = self._turn(step)

    @property
    def pairs(self) -> PairSet:
        return self.penalty.pairs

    @property
    def largest(self) -> Tensor:
        return self.penalty.largest

    def state(self) -> dict[str, Any]:
        return {**super().state(), "parts": self.turns.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.turns.load_state_dict(state.get("parts", {}))  # after the penalty, whose pairs are one of them

    def _turn(self, step: int) -> PairSet:
        """The pairs whose turn it is."""
        pairs = self.turns[step % len(self.turns)]
        assert isinstance(pairs, PairSet)
        return pairs


def every_for(steps: int) -> int:
    """How many steps lie between two that regularise: more in longer runs, as long as pairs climb 800 times or more."""
    return min(_MOST_STEPS, steps // _CLIMBS) if steps >= _LONG_RUN else 1


def _pairs(x: Tensor, size: int, setting: Setting) -> PairSet:
    """So many pairs that start at ``x``."""
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
        raise ConfigError(f"{str(error).partition(': use clip')[0]}: say --form separate") from error
