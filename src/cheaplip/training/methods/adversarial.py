"""Adversarial training: the loss at inputs that projected gradient ascent perturbed."""

from dataclasses import dataclass

from torch import Tensor, nn

from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import SharedOptions, check_positive, check_whole
from cheaplip.training.pgd import perturb

__all__ = ["Adversarial", "AdversarialOptions"]


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions(SharedOptions):
    """The options of adversarial training."""

    adversarial_epsilon: float | None = None
    """adversarial: radius of the perturbations; unset: 0.2 times the median distance of the data, 2.0 on MNIST"""
    adversarial_steps: int = 7
    """adversarial: gradient steps for each perturbation"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of adversarial training is out of its range."""
        check_whole("adversarial_steps", self.adversarial_steps, 1)
        check_positive("adversarial_epsilon", self.adversarial_epsilon)


class Adversarial(Method):
    """Minimise the loss at inputs perturbed by L2 projected gradient ascent, see :mod:`cheaplip.training.pgd`."""

    name = "adversarial"
    adds = "the loss at perturbed inputs"
    cost = "1 + gradient steps: 8 by default"
    source = "Madry et al. 2018"
    options = AdversarialOptions

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(AdversarialOptions)
        self.epsilon = options.adversarial_epsilon or setting.data.epsilon
        self.steps = options.adversarial_steps
        self.domain = setting.data.domain
        self.noise = setting.noise

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        perturbed = perturb(
            network,
            self._summed_loss,
            x,
            y,
            epsilon=self.epsilon,
            steps=self.steps,
            domain=self.domain,
            generator=self.noise,
        )
        output = network(perturbed)
        fit = self.loss(output, y)
        return Losses(fit, fit, output)

    def _summed_loss(self, output: Tensor, y: Tensor) -> Tensor:
        return self.loss(output, y) * len(output)
