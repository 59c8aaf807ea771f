"""Adversarial Lipschitz regularisation (ALR): difference quotients in virtual adversarial directions."""

import torch
from torch import Tensor, nn

from cheaplip.domain import Box
from cheaplip.model import call_on_copy
from cheaplip.quotient import TINY, column, distance, quotient
from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import Penalised
from cheaplip.training.methods.penalties.input_gradients import check_differentiable, each_alone, treats_inputs_alone
from cheaplip.training.methods.penalties.operator_norm import PowerOptions

__all__ = ["AdversarialLipschitz", "adversarial_partners"]


class AdversarialLipschitz(Penalised):
    """Minimise the loss plus λ times the mean quotient between inputs and their virtual adversarial partners.

    A partner is where the output changes most, at a distance drawn between 0 and the data's ε; no label is used. The
    quotients are penalised as they are, not only above a threshold, as λ is steered.

    Reference:
        Terjék 2020, "Adversarial Lipschitz regularization".
    """

    name = "alr"
    adds = "the loss + λ times the mean quotient in virtual adversarial directions"
    cost = "2 + power steps: 3 by default"
    source = "after Terjék 2020"
    group = "penalties on difference quotients"
    options = PowerOptions
    distributed = False
    usual_lam = 0.1

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        check_differentiable(setting, self.name, twice=False)
        self.shares = treats_inputs_alone(setting.network)
        self.power_steps = setting.options_of(PowerOptions).power_steps
        self.epsilon, self.domain, self.noise = setting.data.epsilon, setting.data.domain, setting.noise

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        with each_alone(network, self.shares):
            base = call_on_copy(network, x)
            partners = adversarial_partners(
                network,
                x,
                base.detach(),
                epsilon=self.epsilon,
                steps=self.power_steps,
                domain=self.domain,
                generator=self.noise,
            )
            quotients = quotient(call_on_copy(network, partners), base, partners, x)
        return base if self.shares else network(x), quotients.mean()


def adversarial_partners(
    network: nn.Module,
    x: Tensor,
    base: Tensor,
    *,
    epsilon: float,
    steps: int,
    domain: Box,
    generator: torch.Generator,
) -> Tensor:
    r"""Find a partner for each input, at a random distance r of at most ε, where the output is far away.

    Each step turns the direction d towards the gradient of ‖f(x + r·d) − f(x)‖². For a linear f that is a power
    iteration on fᵀf.

    Args:
        network: f, in a mode in which an output depends on its own input alone.
        x: inputs, (B, \*input).
        base: f(x), (B, outputs), without a gradient.
        epsilon: ε, above 0.
        steps: power iterations, at least 1.
        domain: the box that the partners stay in.
        generator: draws the first directions and the distances; on the inputs' device.

    Returns:
        The partners, (B, \*input), without a gradient.
    """
    direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    radius = epsilon * (1 - torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype))
    for _ in range(steps):
        at = domain.project(x + _of_length(direction, radius)).detach().requires_grad_()
        rise = (call_on_copy(network, at) - base).flatten(1).square().sum()
        (direction,) = torch.autograd.grad(rise, at)
    return domain.project(x + _of_length(direction, radius)).detach()


def _of_length(direction: Tensor, radius: Tensor) -> Tensor:
    """Scale each direction, (B, *input), to its length, (B,); where a direction is 0 it stays 0."""
    return direction * column(radius / distance(direction).clamp_min(TINY), direction)
