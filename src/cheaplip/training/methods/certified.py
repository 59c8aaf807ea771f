"""Certified training: a loss on the outputs divided by a proved bound of the Lipschitz constant."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cheaplip.lipschitz import LipschitzBound
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import SharedOptions, check_positive

__all__ = ["Certified", "CertifiedOptions", "hinge", "orthogonal_"]

_MARGIN = 0.45  # default margin, as a multiple of the data's ε
_SOFTNESS = 0.2  # temperature of the hinge, as a multiple of the margin


@dataclass(frozen=True, kw_only=True)
class CertifiedOptions(SharedOptions):
    """The options of certified training."""

    margin: float | None = None
    """certified: lead of the true class over the bound of Lip(f), √2 × a radius; unset: 0.45 × the data's epsilon;
    groupsort, lipschitz-margin: the first such lead, which is steered"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the margin is out of its range."""
        check_positive("margin", self.margin)


class Certified(Method):
    r"""Minimise a smooth hinge on the leads of z = f(x) / L, where L is a proved bound of Lip(f), see :func:`hinge`.

    z is 1-Lipschitz for every architecture. Where the class y is predicted, its lead z_y − max z_j is therefore √2
    times a radius within which the prediction stays y, and minimising the hinge enlarges the certified radii. The model
    that comes out is f itself, not divided by L.
    """

    name = "certified"
    adds = "a smooth hinge loss on the logits divided by a proved bound of Lip(f)"
    cost = "1 + the bound"
    group = "training with a proved bound"
    source = "after Tsuzuku, Sato, Sugiyama 2018, with a bound of Fazlyab et al. 2019"
    tasks = ("classification",)
    options = CertifiedOptions
    distributed = False
    epochs = 20
    batch_size = 256
    lr = 3e-3
    activation = "relu"
    rise = 0.15

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.margin = setting.options_of(CertifiedOptions).margin or _MARGIN * setting.data.epsilon
        self.bound: nn.Module = LipschitzBound(setting.network, setting.data.shape)

    @staticmethod
    def initialise_(network: nn.Module, seed: int) -> None:
        orthogonal_(network, seed)

    def optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        options: SharedOptions,  # noqa: ARG002
    ) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=lr)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output = network(x)
        fit = hinge(output, y, self.bound().to(output.dtype), self.margin)
        return Losses(fit, fit, output)


def hinge(output: Tensor, y: Tensor, bound: Tensor, margin: float) -> Tensor:
    r"""Return the mean of a smooth hinge on the leads of z = output / bound:

    .. math:: t \log\Big(1 + \sum_{j≠y} \exp\frac{m - (z_y - z_j)}{t}\Big), \quad t = m / 5.

    For t → 0 it becomes the hinge max(0, m − (z_y − max z_j)). With that, small networks collapse: all their outputs
    become the same.

    Args:
        output: logits, (B, classes).
        y: classes, (B,).
        bound: L, a positive scalar.
        margin: m, positive.
    """
    temperature = _SOFTNESS * margin
    own = nn.functional.one_hot(y, output.shape[1]).bool()
    behind = (output - output[own].unsqueeze(1)) / bound
    terms = torch.where(own, 0.0, (margin + behind) / temperature)
    return temperature * terms.logsumexp(dim=1).mean()


@torch.no_grad()
def orthogonal_(model: nn.Module, seed: int) -> None:
    """Draw (semi-)orthogonal weights for all linear and convolutional layers from ``seed``; set their biases to 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            module.weight.copy_(nn.init.orthogonal_(torch.empty(module.weight.shape), generator=generator))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
