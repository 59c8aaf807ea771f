"""Norm decay: the largest sums of weights in dense and convolutional layers."""

import torch
from torch import Tensor, nn

from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import Penalised
from cheaplip.training.methods.weight_layers import LayerNormOptions, absolute_norm, weight_layers

__all__ = ["NormDecay"]


class NormDecay(Penalised):
    """Minimise the loss plus λ times the sum of the layers' norms in 1 or inf, with λ steered to the target.

    Only the row or column of a layer that has the largest sum gets a gradient from its norm.

    Reference:
        Liang, Huang 2020, "Large norms of CNN layers do not hurt adversarial robustness".
    """

    name = "norm-decay"
    adds = "the loss + λ·Σ‖W‖∞, or Σ‖W‖₁, over dense and convolutional layers"
    cost = "1"
    source = "Liang, Huang 2020"
    group = "penalties on weights"
    options = LayerNormOptions
    usual_lam = 0.01

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.norm = setting.options_of(LayerNormOptions).norm_of_layers or "inf"
        self.layers = list(weight_layers(setting.network, self.name).values())

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        norms = [absolute_norm(layer, self.norm) for layer in self.layers]
        return network(x), torch.stack(norms).sum()
