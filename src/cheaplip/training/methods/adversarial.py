"""Adversarial training: the loss at inputs that projected gradient ascent perturbed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import SharedOptions, check_positive, check_whole
from cheaplip.training.pgd import perturb

__all__ = ["Adversarial", "AdversarialOptions", "OnPerturbed", "RadiusOptions", "summed"]


@dataclass(frozen=True, kw_only=True)
class RadiusOptions(SharedOptions):
    """The radius of perturbations, shared by all methods that train on perturbed inputs."""

    adversarial_epsilon: float | None = None
    """adversarial, fgsm, free, one-step, trades: radius of the perturbations; unset: 0.2 times the median distance of
    the data, 2.0 on MNIST"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the radius is out of its range."""
        check_positive("adversarial_epsilon", self.adversarial_epsilon)


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions(RadiusOptions):
    """The options of methods with several gradient steps for each perturbation."""

    adversarial_steps: int = 7
    """adversarial, trades: gradient steps for each perturbation"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of adversarial training is out of its range."""
        RadiusOptions.check(self)
        check_whole("adversarial_steps", self.adversarial_steps, 1)


class OnPerturbed(Method):
    """What the methods share that train on inputs in a ball: its radius, and the gradient steps inside it.

    Attributes:
        epsilon: the radius.
        perturb: :func:`cheaplip.training.pgd.perturb` in the data's domain, with the noise of the run.
    """

    group = "adversarial training"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.epsilon = setting.options_of(RadiusOptions).adversarial_epsilon or setting.data.epsilon
        self.perturb = partial(perturb, domain=setting.data.domain, generator=setting.noise)

    def losses_at(self, perturbed: Tensor, network: nn.Module, y: Tensor) -> Losses:
        """Return the loss at perturbed inputs, as what is minimised."""
        output = network(perturbed)
        fit = self.loss(output, y)
        return Losses(fit, fit, output)


class Adversarial(OnPerturbed):
    """Minimise the loss at inputs perturbed by L2 projected gradient ascent, see :mod:`cheaplip.training.pgd`."""

    name = "adversarial"
    adds = "the loss at perturbed inputs"
    cost = "1 + gradient steps: 8 by default"
    source = "Madry et al. 2018"
    options = AdversarialOptions

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.steps = setting.options_of(AdversarialOptions).adversarial_steps

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        perturbed = self.perturb(network, summed(self.loss), x, y, epsilon=self.epsilon, steps=self.steps)
        return self.losses_at(perturbed, network, y)


def summed(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the sum over a batch of a loss that is a mean, so that each input has its own gradient."""
    return lambda output, y: loss(output, y) * len(output)
