"""TRADES: the loss at the inputs, and β times how much the answer changes at perturbed ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from cheaplip.modes import evaluation_mode
from cheaplip.training.methods.adversarial import AdversarialOptions, OnPerturbed
from cheaplip.training.methods.method import Losses, Setting

__all__ = ["Trades", "TradesOptions", "divergence"]


@dataclass(frozen=True, kw_only=True)
class TradesOptions(AdversarialOptions):
    """The options of TRADES."""

    beta: float = 6.0
    """trades: the first β"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of TRADES is out of its range."""
        AdversarialOptions.check(self)
        self.check_first_weight("beta", self.beta)


class Trades(OnPerturbed):
    r"""Minimise the cross-entropy at x, plus β·KL(p(x) ‖ p(x')) with the x' of the ball where it is largest.

    p is the softmax of the logits, and x' is found by projected gradient ascent. β is steered to the target.

    Reference:
        Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", Equation 5.
    """

    name = "trades"
    adds = "the loss + β times how much the probabilities change at perturbed inputs (KL)"
    cost = "2 + gradient steps: 9 by default"
    source = "Zhang et al. 2019"
    tasks = ("classification",)
    options = TradesOptions
    steered = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(TradesOptions)
        self.steps = options.adversarial_steps
        self.first_lam = options.beta
        self.penalty: nn.Module = nn.Module().to(setting.device)
        self.penalty.register_buffer("lam", torch.tensor(self.first_lam, device=setting.device))

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        with evaluation_mode(network):
            with torch.no_grad():
                before = network(x)
            perturbed = self.perturb(network, divergence, x, before, epsilon=self.epsilon, steps=self.steps)
        output, moved = network(torch.cat([x, perturbed])).chunk(2)
        fit = self.loss(output, y)
        return Losses(fit + self.penalty.get_buffer("lam") * divergence(moved, output) / len(x), fit, output)


def divergence(moved: Tensor, output: Tensor) -> Tensor:
    """Return Σ KL(p ‖ q) over a batch: p is the softmax of ``output``, q that of ``moved``, logits (B, classes)."""
    return kl_div(moved.log_softmax(dim=1), output.log_softmax(dim=1), reduction="sum", log_target=True)
