"""Free adversarial training: perturbations climb along the gradient that the training step computes anyway."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.training.methods.adversarial import OnPerturbed, RadiusOptions
from cheaplip.training.methods.method import Losses, Setting
from cheaplip.training.options import check_whole
from cheaplip.training.pgd import climbed

__all__ = ["Free", "FreeOptions"]


@dataclass(frozen=True, kw_only=True)
class FreeOptions(RadiusOptions):
    """The options of free adversarial training."""

    replays: int = 4
    """free: training steps in a row on the same batch; an epoch draws that many times fewer batches"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of free adversarial training is out of its range."""
        RadiusOptions.check(self)
        check_whole("replays", self.replays, 1)


class Free(OnPerturbed):
    r"""Minimise the loss at perturbed inputs, each batch several times in a row, while the perturbations climb.

    A step computes the gradient of the loss at x + δ, with respect to the weights and to the inputs. The weights go
    down along it, and δ goes up: a normalised step of length ε, projected onto the ball of radius ε. The perturbations
    of a batch are the start of those of the next one.

    Reference:
        Shafahi et al. 2019, "Adversarial training for free!", Algorithm 1, for the maximum norm.
    """

    name = "free"
    adds = "the loss at perturbed inputs, whose perturbations climb from step to step"
    cost = "1 + the gradient at the inputs"
    source = "Shafahi et al. 2019"
    options = FreeOptions
    distributed = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.replays = setting.options_of(FreeOptions).replays
        self.domain, self.device = setting.data.domain, setting.device
        self.shift: Tensor | None = None  # δ, (B, *input), of the last batch; its gradient is that of the last step

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        self.shift = torch.zeros_like(x) if self.shift is None else self._climbed(self.shift)
        self.shift = (self.domain.project(x + self.shift) - x).requires_grad_()
        return self.losses_at(x + self.shift, network, y)

    def state(self) -> dict[str, Any]:
        if self.shift is not None:
            self.shift = self._climbed(self.shift)
        return {**super().state(), "shift": self.shift}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.shift = None if state["shift"] is None else state["shift"].to(self.device)

    def _climbed(self, shift: Tensor) -> Tensor:
        """Return the perturbations after the step that their last gradient asks for, if it was not taken yet."""
        if shift.grad is None:
            return shift.detach()
        return climbed(shift.detach(), shift.grad, self.epsilon, self.epsilon)
