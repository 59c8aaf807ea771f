"""Layers that stay 1-Lipschitz: their weights are moved towards orthogonal matrices after every step."""

import math

import torch
from torch import Tensor, nn

from cheaplip.errors import ConfigError
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.products import norm_product

__all__ = ["OrthogonalLayers"]

_CONVERGES = math.sqrt(3)  # Björck's iteration maps singular values of [0, √3] into [0, 1]
_FIRST = 20  # iterations for the first weights, which are not nearly orthogonal
_TOLERANCE = 1e-3  # by which the product of the norms may exceed 1, in float32


class OrthogonalLayers:
    r"""The linear and convolutional layers of a network, kept at spectral norms of at most 1.

    A step of Björck's iteration, W ← W (3 I − Wᵀ W) / 2, moves all singular values towards 1, and those of [0, √3] into
    [0, 1]. W is scaled first where ‖(Wᵀ W)⁴‖_F^{1/8}, an upper bound of the spectral norm, exceeds √3. The matrix of a
    convolution is (out, in · kernel), divided by ⌈kernel / stride⌉ in each dimension, the square root of how often an
    input entry is used.

    Args:
        network: the network. Its weights are changed, its architecture is not.
        shape: of one input.

    Raises:
        ConfigError: a parameter belongs to another kind of layer, or the layers together are not 1-Lipschitz.
        UnsupportedLayerError: the package cannot read a layer.

    Reference:
        Björck, Bowie 1971; Anil, Lucas, Grosse 2019, Section 4.3, which does several iterations within the forward
        pass; for convolutions Tsuzuku, Sato, Sugiyama 2018, Section 4.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self.layers: list[tuple[nn.Linear | nn.Conv1d | nn.Conv2d, float]] = []
        for path, layer in network.named_modules():
            if isinstance(layer, nn.Linear):
                self.layers.append((layer, 1.0))
            elif isinstance(layer, nn.Conv1d | nn.Conv2d):
                self.layers.append((layer, 1 / math.sqrt(_uses(layer))))
            elif any(True for _ in layer.parameters(recurse=False)):
                raise ConfigError(
                    f"model: expected linear and convolutional layers as the only ones with weights, which groupsort "
                    f"keeps 1-Lipschitz, got {path!r} ({type(layer).__name__}): take mlp:WIDTHS, 2c2f or 4c3f"
                )
        self.orthogonalise_(_FIRST)
        bound = norm_product(read(network, shape))
        if bound > 1 + _TOLERANCE:
            raise ConfigError(
                f"model: expected layers that are 1-Lipschitz together once each weight is, got a product of norms of "
                f"{bound:.3g}: groupsort takes no sums such as x + g(x), take mlp:WIDTHS, 2c2f or 4c3f"
            )

    @torch.no_grad()
    def orthogonalise_(self, iterations: int = 1) -> None:
        """Take steps towards orthogonal weights; after each of them, all norms are at most 1."""
        for layer, scale in self.layers:
            groups = 1 if isinstance(layer, nn.Linear) else layer.groups
            matrix = layer.weight.reshape(groups, layer.weight.shape[0] // groups, -1) / scale
            tall = matrix.shape[1] > matrix.shape[2]
            matrix = matrix if tall else matrix.mT
            for _ in range(iterations):
                matrix = _iterated(matrix)
            layer.weight.copy_(scale * (matrix if tall else matrix.mT).reshape(layer.weight.shape))


def _iterated(w: Tensor) -> Tensor:
    """Take one step of Björck's iteration with matrices (G, rows, columns), columns ≤ rows."""
    most = _CONVERGES * math.sqrt(w.shape[2])  # a larger Frobenius norm means a norm above √3; powers would overflow
    w = w * (most / torch.linalg.matrix_norm(w, keepdim=True).clamp_min(most))
    gram = w.mT @ w
    fourth = gram @ gram
    fourth = fourth @ fourth
    norm = torch.linalg.matrix_norm(fourth, keepdim=True) ** (1 / 8)
    shrink = (_CONVERGES / norm.clamp_min(_CONVERGES)).square()  # of the Gram matrix
    moved: Tensor = shrink.sqrt() * (1.5 * w - 0.5 * shrink * (w @ gram))
    return moved


def _uses(layer: nn.Conv1d | nn.Conv2d) -> int:
    """Return in how many windows of a convolution an input entry lies, at most."""
    dense = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    return math.prod(-(-kernel // stride) if dilation == 1 else kernel for kernel, stride, dilation in dense)
