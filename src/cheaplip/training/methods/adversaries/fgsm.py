"""Adversarial training with one gradient step from a random start."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from cheaplip.training.methods.adversarial import OnPerturbed, RadiusOptions, summed
from cheaplip.training.methods.method import Losses, Setting
from cheaplip.training.options import check_not_negative, check_positive

__all__ = ["Fgsm", "FgsmOptions"]


@dataclass(frozen=True, kw_only=True)
class FgsmOptions(RadiusOptions):
    """The options of FGSM training."""

    fgsm_step: float = 1.25
    """fgsm: length of the gradient step, in units of the radius"""
    fgsm_start: float = 1.0
    """fgsm: radius of the ball that the step starts in at random, in units of the radius; 0: at the input itself"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of FGSM training is out of its range."""
        RadiusOptions.check(self)
        check_positive("fgsm_step", self.fgsm_step)
        check_not_negative("fgsm_start", self.fgsm_start)


class Fgsm(OnPerturbed):
    """Minimise the loss at inputs that one gradient step perturbed.

    The step starts at a random point near the input, is longer than the radius, and is projected back onto the ball.
    The publications take the sign of the gradient, for the maximum norm; here it is normalised, for the Euclidean one.

    Reference:
        Goodfellow, Shlens, Szegedy 2015, "Explaining and harnessing adversarial examples"; Wong, Rice, Kolter 2020,
        "Fast is better than free", Algorithm 3.
    """

    name = "fgsm"
    adds = "the loss at inputs perturbed by one gradient step from a random start"
    cost = "2"
    source = "Goodfellow et al. 2015, Wong et al. 2020"
    options = FgsmOptions

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(FgsmOptions)
        self.step = partial(self.perturb, steps=1, stride=options.fgsm_step, start=options.fgsm_start)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        perturbed = self.step(network, summed(self.loss), x, y, epsilon=self.epsilon)
        return self.losses_at(perturbed, network, y)
