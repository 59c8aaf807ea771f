"""Adversarial training with one gradient step from a noisy input, which is not projected back."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from cheaplip.training.methods.adversarial import OnPerturbed, RadiusOptions, summed
from cheaplip.training.methods.method import Losses, Setting
from cheaplip.training.options import check_positive

__all__ = ["OneStep", "OneStepOptions"]


@dataclass(frozen=True, kw_only=True)
class OneStepOptions(RadiusOptions):
    """The options of one-step training with noise."""

    one_step_noise: float = 1.0
    """one-step: largest length of the noise, in units of the radius"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of one-step training is out of its range."""
        RadiusOptions.check(self)
        check_positive("one_step_noise", self.one_step_noise)


class OneStep(OnPerturbed):
    """Minimise the loss at noisy inputs that one gradient step of length ε moved.

    Noise and step are not projected back onto the ball of radius ε: perturbations have many lengths, so that the
    network cannot adapt to a single one. The learned noise layer of the publication is left out, because it would
    change the model.

    Reference:
        Schwinn, Raab, Eskofier 2020, "Towards rapid and robust adversarial training with one-step attacks", Section 3,
        for the maximum norm.
    """

    name = "one-step"
    adds = "the loss at noisy inputs, moved by one gradient step"
    cost = "2"
    source = "Schwinn et al. 2020"
    options = OneStepOptions

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        reach = 1 + setting.options_of(OneStepOptions).one_step_noise  # of noise and step together, in radii
        self.reach = reach * self.epsilon
        self.step = partial(self.perturb, steps=1, stride=1 / reach, start=1 - 1 / reach)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        perturbed = self.step(network, summed(self.loss), x, y, epsilon=self.reach)
        return self.losses_at(perturbed, network, y)
