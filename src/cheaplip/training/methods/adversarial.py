"""Adversarial training by projected gradient ascent."""

from dataclasses import dataclass

from torch import Tensor, nn

from cheaplip.training.ascent import ascend
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import SharedOptions, check_positive, check_whole

__all__ = ["Adversarial", "AdversarialOptions"]


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions(SharedOptions):
    """The options of adversarial training."""

    adversarial_epsilon: float | None = None
    """radius of adversarial training; unset: the data's"""
    adversarial_steps: int = 7
    """gradient steps of adversarial training"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` unless every option of adversarial training is in its range."""
        check_whole("adversarial_steps", self.adversarial_steps, 1)
        check_positive("adversarial_epsilon", self.adversarial_epsilon)


class Adversarial(Method):
    """The loss at inputs perturbed by L2 projected gradient ascent, see :func:`cheaplip.training.ascent.ascend`."""

    name = "adversarial"
    adds = "the loss at perturbed inputs, in place of the loss at clean ones"
    cost = "1 + gradient steps (8)"
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
        output = network(
            ascend(
                network,
                self._summed,
                x,
                y,
                epsilon=self.epsilon,
                steps=self.steps,
                domain=self.domain,
                generator=self.noise,
            )
        )
        fit = self.loss(output, y)
        return Losses(fit, fit, output)

    def _summed(self, output: Tensor, y: Tensor) -> Tensor:
        return self.loss(output, y) * len(output)
