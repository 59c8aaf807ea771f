"""Margin training: the class must stay ahead by a radius times a product of norms."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz import Chain, read
from cheaplip.lipschitz.bounds.products import norm_product_to_train, without_constant
from cheaplip.lipschitz.reading.operations import Matrix
from cheaplip.training.methods.certified import CertifiedOptions, orthogonal_
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import check_choice

__all__ = ["LipschitzMargin", "LipschitzMarginOptions", "NormProduct", "gloro", "margin_logits"]

_MARGIN = 0.45  # default margin, as a multiple of the data's ε


@dataclass(frozen=True, kw_only=True)
class LipschitzMarginOptions(CertifiedOptions):
    """The options of margin training."""

    margin_form: str = "gloro"
    """lipschitz-margin: gloro: an extra class wins where the lead is too small; tsuzuku: rivals get a head start"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of margin training is out of its range."""
        CertifiedOptions.check(self)
        check_choice("margin_form", self.margin_form, ("gloro", "tsuzuku"))


class LipschitzMargin(Method):
    r"""Minimise the cross-entropy of logits in which rivals are ε·K_ij ahead; the margin √2·ε is steered.

    K_ij is a proved bound of the Lipschitz constant of f_i − f_j, a product of norms: that of all layers but the last
    one, which must be linear, times ‖w_i − w_j‖ of its rows. The two forms are those of :func:`gloro` and
    :func:`margin_logits`.

    Reference:
        Tsuzuku, Sato, Sugiyama 2018, "Lipschitz-margin training", Algorithm 1; Leino, Wang, Fredrikson 2021, "Globally
        robust neural networks", Section 3.
    """

    name = "lipschitz-margin"
    adds = "the loss of logits whose rivals are ahead by a radius times a product of norms"
    cost = "1 + the norms"
    group = "constraints on layers"
    source = "Tsuzuku et al. 2018, Leino et al. 2021"
    tasks = ("classification",)
    options = LipschitzMarginOptions
    steered = True
    distributed = False
    activation = "relu"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(LipschitzMarginOptions)
        self.bound: NormProduct = NormProduct(setting.network, setting.data.shape)
        self.form: Callable[[Tensor, Tensor, Tensor], Tensor] = (
            gloro if options.margin_form == "gloro" else margin_logits
        )
        self.first_lam = options.margin or _MARGIN * setting.data.epsilon
        self.penalty: nn.Module = nn.Module()
        self.penalty.register_buffer("lam", torch.tensor(self.first_lam, device=setting.device))

    @staticmethod
    def initialise_(network: nn.Module, seed: int) -> None:
        orthogonal_(network, seed)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output = network(x)
        reach = self.penalty.get_buffer("lam") / 2**0.5 * self.bound.of_pairs().to(output.dtype)
        total = cross_entropy(self.form(output, y, reach), y)
        return Losses(total, total, output)


class NormProduct(nn.Module):
    """The product of norms of a network, and of all pairs of its outputs, differentiable in the weights.

    Args:
        network: made of layers that the package knows, the last one linear. It is neither wrapped nor owned.
        shape: of one input.

    Raises:
        UnsupportedLayerError: a layer has no known constant, or the last one is not linear.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.chain: Chain = read(network, shape)
        if unknown := without_constant(self.chain, 2):
            raise UnsupportedLayerError(f"no Lipschitz constant in norm 2 is known for layer {unknown}")
        *before, last = self.chain.links
        if not isinstance(last.operation, Matrix) or last.arguments != (len(before),):
            raise UnsupportedLayerError(
                f"layer {last.path!r} ({type(last.operation).__name__}): expected a linear layer at the end of the "
                "model, whose rows are compared"
            )
        self.last: Matrix = last.operation
        self.before = replace(self.chain, links=tuple(before), digest=None)

    def forward(self) -> Tensor:
        """Compute the product of all norms, a float64 scalar."""
        return norm_product_to_train(self.chain)

    def of_pairs(self) -> Tensor:
        """Compute K, (classes, classes) float64, with a diagonal of 0."""
        rows = self.last.weight().double()
        squares = (rows[:, None] - rows[None]).square().sum(dim=2)
        apart = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)  # √0 has no gradient
        return norm_product_to_train(self.before) * apart


def gloro(output: Tensor, y: Tensor, reach: Tensor) -> Tensor:
    r"""Append the logit of a class "not robust": max_{j≠i} z_j + ε K_ij, where i is the predicted class.

    It is the largest logit exactly where a perturbation of length ε could change the class, by the bound K.

    Args:
        output: logits z, (B, classes).
        y: classes, (B,); not used.
        reach: ε K, (classes, classes).

    Returns:
        Logits, (B, classes + 1).

    Reference:
        Leino, Wang, Fredrikson 2021, Section 3.
    """
    del y
    first = output.argmax(dim=1)
    rivals = (output + reach[first]).scatter(1, first.unsqueeze(1), -torch.inf)
    return torch.cat([output, rivals.amax(dim=1, keepdim=True)], dim=1)


def margin_logits(output: Tensor, y: Tensor, reach: Tensor) -> Tensor:
    r"""Give each rival of the true class a head start: z_j + ε K_yj.

    Args:
        output, y, reach: as in :func:`gloro`; ``y`` is used.

    Returns:
        Logits, (B, classes).

    Reference:
        Tsuzuku, Sato, Sugiyama 2018, Algorithm 1, with K_yj for √2 times the constant of all outputs.
    """
    return output + reach[y]
