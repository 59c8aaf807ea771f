"""The data-dependent operator norm: the spectral norm of the network's Jacobian at the data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cheaplip.quotient import TINY, distance
from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import LamOptions
from cheaplip.training.methods.penalties.input_gradients import GradientPenalised, pulled_back
from cheaplip.training.options import check_whole

__all__ = ["OperatorNorm", "PowerOptions", "spectral_norms"]


@dataclass(frozen=True, kw_only=True)
class PowerOptions(LamOptions):
    """The options of methods that look for the steepest direction at each input."""

    power_steps: int = 1
    """operator-norm, alr: power iterations for the steepest direction at each input"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the number of iterations is out of its range."""
        check_whole("power_steps", self.power_steps, 1)


class OperatorNorm(GradientPenalised):
    """Minimise the loss plus λ times the mean over the batch of the spectral norm of J(x), with λ steered.

    Reference:
        Roth, Kilcher, Hofmann 2019, "Adversarial training is a form of data-dependent operator norm regularization",
        Algorithm 1.
    """

    name = "operator-norm"
    adds = "the loss + λ·‖J(x)‖₂ at the data, by power iteration"
    cost = "2 + 2·power steps: 4 by default"
    source = "Roth, Kilcher, Hofmann 2019"
    options = PowerOptions
    usual_lam = 0.1

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.power_steps = setting.options_of(PowerOptions).power_steps

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        output, at, measured = self.passes(network, x)
        return output, spectral_norms(measured, at, steps=self.power_steps, generator=self.noise).mean()


def spectral_norms(output: Tensor, at: Tensor, *, steps: int, generator: torch.Generator) -> Tensor:
    r"""Estimate ‖J(x)‖₂ for each input from below, by power iteration on J(x) J(x)ᵀ from a random direction.

    J v is the gradient of ⟨Jᵀw, v⟩ with respect to w, so that only gradients are needed.

    Args:
        output: f(x), (B, outputs), from :func:`outputs_at`.
        at: the inputs x that it was computed from, (B, \*input).
        steps: power iterations, at least 1.
        generator: draws the first directions; on the inputs' device.

    Returns:
        ‖Jᵀw‖ with the last unit vector w, (B,), with a gradient with respect to the weights.
    """
    w = torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype)
    w = normalize(w, dim=1, eps=TINY).requires_grad_()
    row = pulled_back(output, at, w)
    for _ in range(steps):
        (column,) = torch.autograd.grad(row, w, row.detach(), retain_graph=True)
        w = normalize(column, dim=1, eps=TINY).detach().requires_grad_()
        row = pulled_back(output, at, w)
    return distance(row)
