"""Deep splines: trainable piecewise-linear activations, whose variation is penalised with the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cheaplip.errors import ConfigError
from cheaplip.training.methods.constraints.spline import LinearSpline, replace_activations_
from cheaplip.training.methods.method import Setting
from cheaplip.training.methods.penalised import LamOptions, Penalised
from cheaplip.training.methods.weight_layers import weight_layers

__all__ = ["DeepSpline", "DeepSplineOptions"]


@dataclass(frozen=True, kw_only=True)
class DeepSplineOptions(LamOptions):
    """The options of deep splines: those of every penalty. Models whose activations it cannot replace are refused."""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if the model has no activations that can be replaced."""
        if self.method != "deep-spline":
            return
        if self.model == "linear" or self.model.partition(":")[2].isidentifier():
            raise ConfigError(
                "method: deep-spline replaces the activations of models by name, such as mlp:200,80 or cnn, got "
                f"--model {self.model}: name one of these, or use another method"
            )
        if self.final_activation != "none":
            raise ConfigError(f"final_activation: expected none with --method deep-spline, got {self.final_activation}")


class DeepSpline(Penalised):
    """Minimise the loss plus λ·(Σ‖W‖² + Σ‖σ‖), over weight matrices and trainable activations σ, with λ steered.

    ‖σ‖ is the second-order total variation plus |σ(0)| + |σ(1)|, see :meth:`LinearSpline.variation`. Both sums together
    bound the constant of the network. The splines start as the model's activation.

    Reference:
        Aziznejad, Gupta, Campos, Unser 2020, "Deep neural networks with trainable activations and controlled Lipschitz
        constant".
    """

    name = "deep-spline"
    adds = "the loss + λ·(Σ‖W‖² + the variation of trainable piecewise-linear activations)"
    cost = "1 + the activations"
    source = "Aziznejad et al. 2020"
    group = "constraints on layers"
    options = DeepSplineOptions
    lr = 0.05
    activation = "relu"
    responds_slowly = True
    usual_lam = 0.01

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.layers = list(weight_layers(setting.network, self.name).values())
        self.splines = [module for module in setting.network.modules() if isinstance(module, LinearSpline)]

    @staticmethod
    def adapt_(network: nn.Module, shape: tuple[int, ...]) -> None:
        if not replace_activations_(network, shape):
            raise ConfigError("method: deep-spline needs an activation that works on single numbers, such as relu")

    def output_and_term(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = [layer.weight.square().sum() for layer in self.layers] + [s.variation() for s in self.splines]
        return network(x), torch.stack(parts).sum()
