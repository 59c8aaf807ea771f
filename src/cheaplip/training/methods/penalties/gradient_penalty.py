"""The gradient penalty: the norm of the input gradient, at data and between data."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cheaplip.quotient import column, distance
from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import LamOptions
from cheaplip.training.methods.penalties.input_gradients import (
    GradientPenalised,
    outputs_in_evaluation,
    pulled_back,
)
from cheaplip.training.options import check_choice

__all__ = ["GradientPenalty", "GradientPenaltyOptions", "at_and_between", "gradient_lengths"]

Reduction = Literal["mean", "max"]


@dataclass(frozen=True, kw_only=True)
class GradientPenaltyOptions(LamOptions):
    """The options of the gradient penalty."""

    gradients: Reduction = "mean"
    """gradient-penalty: how the lengths of the gradients become one number: their mean, or their maximum"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the reduction is unknown."""
        check_choice("gradients", self.gradients, get_args(Reduction))


class GradientPenalty(GradientPenalised):
    """Minimise the loss plus λ times the mean, or the maximum, of the input gradient's length.

    Half of the gradients are at data, half at points between two inputs of the batch. Of several outputs, each gradient
    is that of one drawn at random, so that the maximum is over data and outputs.

    Reference:
        Oberman, Calder 2018, "Lipschitz regularized deep neural networks generalize and are adversarially robust"
        (the maximum); Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (points between data).
    """

    name = "gradient-penalty"
    adds = "the loss + λ times the mean, or the maximum, of ‖∇f(x)‖ at and between data"
    cost = "3"
    source = "Oberman, Calder 2018; Gulrajani et al. 2017"
    options = GradientPenaltyOptions
    usual_lam = 0.1

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.largest_alone = setting.options_of(GradientPenaltyOptions).gradients == "max"

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        at, measured = outputs_in_evaluation(network, at_and_between(x, self.noise))
        lengths = gradient_lengths(measured, at, self.noise)
        return network(x), lengths.max() if self.largest_alone else lengths.mean()


def at_and_between(x: Tensor, generator: torch.Generator) -> Tensor:
    r"""Return the first half of the inputs, and for each of the others a point between it and another one.

    Args:
        x: inputs, (B, \*input).
        generator: draws the partners and the points; on the inputs' device.

    Returns:
        (B, \*input).
    """
    rest = x[(len(x) + 1) // 2 :]
    partners = torch.randint(len(x), (len(rest),), generator=generator, device=x.device)
    part = column(torch.rand(len(rest), generator=generator, device=x.device, dtype=x.dtype), rest)
    return torch.cat([x[: len(x) - len(rest)], torch.lerp(rest, x[partners], part)])


def gradient_lengths(output: Tensor, at: Tensor, generator: torch.Generator) -> Tensor:
    r"""Return ‖∇f_j(x)‖ for each input x, with the output j drawn at random.

    Args:
        output: f(x), (B, outputs), from :func:`outputs_at`.
        at: the inputs x that it was computed from, (B, \*input).
        generator: draws the outputs; on the inputs' device.

    Returns:
        (B,), with a gradient with respect to the weights.
    """
    chosen = torch.randint(output.shape[1], (len(output),), generator=generator, device=output.device)
    return distance(pulled_back(output, at, one_hot(chosen, output.shape[1]).to(output.dtype)))
