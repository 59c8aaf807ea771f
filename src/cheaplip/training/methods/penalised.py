"""``Penalised``, the methods that minimise the loss plus λ times a term, and ``--lam``, their first λ."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import SharedOptions

__all__ = ["Lam", "LamOptions", "Penalised", "first_lam_of"]


@dataclass(frozen=True, kw_only=True)
class LamOptions(SharedOptions):
    """The first λ, an option of all methods that steer one."""

    lam: float | None = None
    """the first λ; with clip unset: 0.02 for regression, else 0.5 for mlp and linear, else 0.05; with other methods
    unset: one that suits the method"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the first λ is out of its range."""
        self.check_first_weight("lam", self.lam)


class Lam(nn.Module):
    """λ in the buffer ``lam``, where a controller can move it.

    Args:
        lam: the first λ, at least 0.
    """

    lam: Tensor

    def __init__(self, lam: float) -> None:
        super().__init__()
        self.register_buffer("lam", torch.tensor(float(lam)))


def first_lam_of(setting: Setting, usual: float) -> float:
    """Return the first λ: the option of the run, or else ``usual``."""
    given = setting.options_of(LamOptions).lam
    return usual if given is None else given


class Penalised(Method):
    """Minimise the loss plus λ times a term, with λ steered to the target.

    Attributes:
        usual_lam: the first λ, where the options give none.
    """

    options = LamOptions
    steered = True
    usual_lam: ClassVar[float]

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.first_lam: float | None = first_lam_of(setting, self.usual_lam)
        self.penalty: Lam = Lam(self.first_lam).to(setting.device)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output, term = self.output_and_term(network, x)
        fit = self.loss(output, y)
        return Losses(fit + self.penalty.lam * term, fit, output)

    @abstractmethod
    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Compute the outputs for a batch, and what λ multiplies.

        Args:
            network: as in :meth:`losses`.
            x: inputs, (B, \*input).

        Returns:
            The outputs, (B, outputs), and the term, a scalar.
        """
