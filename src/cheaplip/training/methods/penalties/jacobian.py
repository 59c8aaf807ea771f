"""Jacobian regularisation: the Frobenius norm of the network's Jacobian at the data."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import LamOptions
from cheaplip.training.methods.penalties.input_gradients import GradientPenalised, pulled_back
from cheaplip.training.options import check_whole

__all__ = ["Jacobian", "JacobianOptions", "squared_frobenius_norm"]


@dataclass(frozen=True, kw_only=True)
class JacobianOptions(LamOptions):
    """The options of Jacobian regularisation."""

    projections: int = 1
    """jacobian: random directions of the outputs for each input, in which the Jacobian is measured"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the number of directions is out of its range."""
        check_whole("projections", self.projections, 1)


class Jacobian(GradientPenalised):
    """Minimise the loss plus λ times the mean of ‖J(x)‖_F² over the batch, with λ steered to the target.

    The norm is estimated from random directions, see :func:`squared_frobenius_norm`.

    Reference:
        Hoffman, Roberts, Yaida 2019, "Robust learning with Jacobian regularization", Algorithm 1.
    """

    name = "jacobian"
    adds = "the loss + λ·‖J(x)‖_F² at the data, estimated by random projections"
    cost = "1 + projections: 2 by default"
    source = "Hoffman, Roberts, Yaida 2019"
    options = JacobianOptions
    usual_lam = 0.01

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.projections = setting.options_of(JacobianOptions).projections

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        output, at, measured = self.passes(network, x)
        squares = squared_frobenius_norm(measured, at, projections=self.projections, generator=self.noise)
        return output, squares.mean()


def squared_frobenius_norm(output: Tensor, at: Tensor, *, projections: int, generator: torch.Generator) -> Tensor:
    r"""Estimate ‖J(x)‖_F² for each input, without bias, from n random unit directions v_i of the k outputs:

    .. math:: \frac{k}{n} \sum_i \|J(x)^T v_i\|^2.

    Args:
        output: f(x), (B, k), from :func:`outputs_at`.
        at: the inputs x that it was computed from, (B, \*input).
        projections: n, at least 1.
        generator: draws the directions; on the inputs' device.

    Returns:
        (B,), with a gradient with respect to the weights.
    """
    total = output.new_zeros(len(output))
    for _ in range(projections):
        noise = torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype)
        total = total + pulled_back(output, at, normalize(noise, dim=1)).flatten(1).square().sum(dim=1)
    return output.shape[1] / projections * total
