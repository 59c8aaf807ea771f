"""1-Lipschitz networks that sort, trained with a hinge and the dual of the Wasserstein distance (HKR)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cheaplip.training.methods.certified import CertifiedOptions
from cheaplip.training.methods.constraints.orthogonal import OrthogonalLayers
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import check_choice, check_fraction

__all__ = ["GroupSort", "GroupSortOptions", "hkr", "lse_hkr"]

_MARGIN = 0.45  # default margin, as a multiple of the data's ε


@dataclass(frozen=True, kw_only=True)
class GroupSortOptions(CertifiedOptions):
    """The options of 1-Lipschitz networks."""

    hkr: str = "hkr"
    """groupsort: how logits are compared: hkr, each with the margin; lse, the true one with a soft maximum of others"""
    hkr_alpha: float = 0.9
    """groupsort: weight of the hinge, from 0 to 1; the rest is that of the Kantorovich-Rubinstein term"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of 1-Lipschitz networks is out of its range."""
        CertifiedOptions.check(self)
        check_choice("hkr", self.hkr, ("hkr", "lse"))
        check_fraction("hkr_alpha", self.hkr_alpha)


class GroupSort(Method):
    """Minimise a hinge and a Kantorovich-Rubinstein term over 1-Lipschitz networks; the margin is steered.

    The layers are kept 1-Lipschitz by :class:`OrthogonalLayers`; what is saved is a plain network. With activations
    that sort, such networks can come close to any 1-Lipschitz function. The margin is a distance between inputs: it is
    √2 times the radius within which an input that meets it keeps its class.

    Reference:
        Anil, Lucas, Grosse 2019, "Sorting out Lipschitz function approximation"; Serrurier et al. 2021, "Achieving
        robustness in classification using optimal transport with hinge regularization", Equation 9.
    """

    name = "groupsort"
    adds = "a hinge and a Kantorovich-Rubinstein loss, over 1-Lipschitz networks"
    cost = "1 + a step towards orthogonal weights"
    group = "constraints on layers"
    source = "Anil et al. 2019, Serrurier et al. 2021"
    tasks = ("classification",)
    options = GroupSortOptions
    steered = True
    distributed = False
    activation = "maxmin"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(GroupSortOptions)
        self.layers = OrthogonalLayers(setting.network, setting.data.shape)
        self.compare, self.alpha = (hkr if options.hkr == "hkr" else lse_hkr), options.hkr_alpha
        self.first_lam = options.margin or _MARGIN * setting.data.epsilon
        self.penalty: nn.Module = nn.Module()
        self.penalty.register_buffer("lam", torch.tensor(self.first_lam, device=setting.device))

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output = network(x)
        fit = self.compare(output, y, self.penalty.get_buffer("lam"), self.alpha)
        return Losses(fit, fit, output)

    def after_step(self) -> None:
        self.layers.orthogonalise_()


def hkr(output: Tensor, y: Tensor, margin: Tensor, alpha: float) -> Tensor:
    r"""Return α times a hinge on each logit, minus (1 − α) times the Kantorovich-Rubinstein term.

    The hinge wants the logit of the true class above m/2 and each other one below −m/2; the true class counts as much
    as all others together. The second term is, for each class, the mean of its logit over the inputs of the class minus
    that over the other inputs, averaged over classes.

    Args:
        output: logits of a 1-Lipschitz network, (B, classes).
        y: classes, (B,).
        margin: m, a positive scalar.
        alpha: α, from 0 to 1.

    Reference:
        Serrurier et al. 2021, Equations 9 and 13.
    """
    own = nn.functional.one_hot(y, output.shape[1]).bool()
    short = (margin / 2 - torch.where(own, output, -output)).relu()
    hinge = torch.where(own, (output.shape[1] - 1) * short, short).mean()
    share = own.to(output.dtype).mean(dim=0)
    inside, outside = (1 / each.clamp_min(1 / len(y)) for each in (share, 1 - share))
    apart = (torch.where(own, inside, -outside) * output).mean()
    return alpha * hinge - (1 - alpha) * apart


def lse_hkr(output: Tensor, y: Tensor, margin: Tensor, alpha: float) -> Tensor:
    r"""Return α times a hinge, minus (1 − α) times the lead, with a soft maximum s of the other classes' logits.

    s = log Σ_{j≠y} exp(t z_j) / t with t = 2 log(classes − 1) / m, at most m/2 above the maximum. The hinge is
    max(0, m/2 − z_y) + max(0, m/2 + s), and the lead z_y − s.

    Args:
        output, y, margin, alpha: as in :func:`hkr`.

    Reference:
        The LseHKR loss of deel-torchlip, after Serrurier et al. 2021.
    """
    own = nn.functional.one_hot(y, output.shape[1]).bool()
    inverse = margin / (2 * math.log(max(output.shape[1] - 1, 2)))  # 1 / t; with two classes, any t gives the same
    others = inverse * (output.masked_fill(own, -math.inf) / inverse).logsumexp(dim=1)
    true = output[own]
    hinge = (margin / 2 - true).relu() + (margin / 2 + others).relu()
    return (alpha * hinge - (1 - alpha) * (true - others)).mean()
