"""The dense and convolutional layers of a network, and their norms as maps between spaces with norm 1 or inf."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cheaplip.errors import ConfigError
from cheaplip.training.methods.penalised import LamOptions
from cheaplip.training.options import check_choice

__all__ = ["LayerNormOptions", "NormOfLayers", "absolute_norm", "weight_layers"]

NormOfLayers = Literal["1", "2", "inf"]
"""The norm of a layer's inputs and outputs."""


@dataclass(frozen=True, kw_only=True)
class LayerNormOptions(LamOptions):
    """The norm of layers, an option of methods that make it small."""

    norm_of_layers: NormOfLayers | None = None
    """spectral, norm-decay: the norm in which layers are measured, 1, 2 or inf; unset: 2 for spectral, inf for
    norm-decay, which has no 2"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the norm is unknown, or one that the method does not have."""
        check_choice("norm_of_layers", self.norm_of_layers, get_args(NormOfLayers))
        if self.method == "norm-decay" and self.norm_of_layers == "2":
            raise ConfigError(
                "norm_of_layers: expected 1 or inf with --method norm-decay, got 2: use --method spectral"
            )


def weight_layers(network: nn.Module, method: str) -> dict[str, nn.Linear | _ConvNd]:
    """Return the dense and convolutional layers of a network by their paths.

    Args:
        network: the network.
        method: the name of the method, for the message.

    Raises:
        ConfigError: there is no such layer.
    """
    found = {path: layer for path, layer in network.named_modules() if isinstance(layer, (nn.Linear, _ConvNd))}
    if not found:
        raise ConfigError(f"method: {method} needs a model with dense or convolutional layers, got one without any")
    return found


def absolute_norm(layer: nn.Linear | _ConvNd, norm: NormOfLayers) -> Tensor:
    """Return the operator norm of a layer without its bias, by sums of sizes of weights.

    With norm inf it is the largest sum over what enters an output, with norm 1 the largest over what an input enters.
    For convolutions that counts all taps of the kernel, and is an upper bound where strides or borders leave some out.

    Args:
        layer: the layer.
        norm: 1 or inf, of inputs and outputs.

    Returns:
        A scalar, with a gradient with respect to the weights.
    """
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    sizes = layer.weight.abs()
    sizes = sizes.reshape(groups, len(sizes) // groups, sizes.shape[1], -1).sum(dim=-1)
    output, given = (2, 1) if isinstance(layer, _ConvTransposeNd) else (1, 2)
    return sizes.sum(dim=given if norm == "inf" else output).amax()
