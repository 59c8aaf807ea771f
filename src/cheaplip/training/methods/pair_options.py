"""The pairs of methods that have some: their options, and how they are made."""

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from cheaplip.clip import Aggregate
from cheaplip.errors import BatchDependentLayerError, ConfigError
from cheaplip.modes import refuse_batch_dependent_layers
from cheaplip.pairs import Climb, PairSet, Start
from cheaplip.training.methods.method import Setting
from cheaplip.training.options import SharedOptions, check_choice, check_positive, check_whole

__all__ = ["PairOptions", "check_joint", "make_pairs"]


@dataclass(frozen=True, kw_only=True)
class PairOptions(SharedOptions):
    """The options of the pairs, shared by all methods that have some."""

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
    aggregate: Aggregate | None = None
    """clip: how quotients become one number; unset: softmax, or mean with every above 1; max is the paper's"""
    every: int | None = None
    """clip: regularise each k-th step, with k times the weight; unset: 1 below 2,000 steps, else up to 16"""
    form: str = "joint"
    """clip: joint: pairs pass the network together with the batch; separate: in their own pass, for any model"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of the pairs is out of its range."""
        for name, kinds in (("start", Start), ("step", Climb), ("aggregate", Aggregate)):
            check_choice(name, getattr(self, name), get_args(kinds))
        check_choice("form", self.form, ("joint", "separate"))
        for name, least in (("pairs", 1), ("renew", 0), ("grace", 0), ("every", 1)):
            check_whole(name, getattr(self, name), least)
        check_positive("step_size", self.step_size)


def make_pairs(x: Tensor, size: int, setting: Setting) -> PairSet:
    r"""Make ``size`` pairs that start at the inputs ``x``, (N, \*shape)."""
    options = setting.options_of(PairOptions)
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


def check_joint(network: nn.Module) -> None:
    """Raise a :class:`ConfigError` if a layer mixes the inputs of a batch, so that pairs cannot share its pass."""
    try:
        refuse_batch_dependent_layers(network)
    except BatchDependentLayerError as error:
        raise ConfigError(f"form: this model needs --form separate, for it cannot take joint: {error}") from error
