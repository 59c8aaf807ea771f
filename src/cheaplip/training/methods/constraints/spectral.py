"""The norm of each layer bounded by projection after each step (LCC), in the norms 1, 2 and inf."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from cheaplip.errors import ConfigError
from cheaplip.modes import evaluation_mode
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.methods.penalised import Lam, first_lam_of
from cheaplip.training.methods.weight_layers import LayerNormOptions, NormOfLayers, absolute_norm, weight_layers

__all__ = ["LayerProjection", "Spectral"]

_USUAL_LAM = 0.25  # layers of norm 4: a sigmoid has slopes of at most 1/4
_FIRST_STEPS = 50  # of the power iteration before training, from a random direction
_STEPS = 2  # in each training step, from the last direction: weights change little in one


class LayerProjection(Lam):
    """Scale down every layer whose norm is above 1/λ until it is 1/λ.

    Norms 1 and inf are sums of weights. Norm 2 is found by power iteration on inputs of the layer's own size. It is an
    estimate from below, which stays close because the directions, kept in buffers, follow the weights. The norm of
    a batch norm is its largest factor in evaluation mode.

    Args:
        lam: the first λ, at least 0; 0 bounds nothing.
        network: the network whose layers are bounded.
        x: an input, (1, *input), which tells the size of each layer's inputs.
        norm: 1, 2 or inf.
        generator: draws the first directions; on the input's device.

    Raises:
        ConfigError: there is no dense or convolutional layer, or one that is computed from other weights.

    Reference:
        Gouk et al. 2020, "Regularisation of neural networks by enforcing Lipschitz continuity".
    """

    def __init__(
        self, lam: float, network: nn.Module, x: Tensor, *, norm: NormOfLayers, generator: torch.Generator
    ) -> None:
        super().__init__(lam)
        self.norm = norm
        layers = weight_layers(network, "spectral")
        for path, layer in layers.items():
            if is_parametrized(layer):
                raise ConfigError(
                    f"method: spectral projects weights, but those of layer {path!r} are computed by a "
                    "parametrization: remove it, or use another method"
                )
        self.scales = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.affine]
        self.layers = list(layers.values())
        if norm == "2":
            shapes = _input_shapes(network, x, self.layers)
            self.layers = [layer for layer in self.layers if layer in shapes]
            for number, layer in enumerate(self.layers):
                start = torch.randn(shapes[layer], generator=generator, device=x.device, dtype=x.dtype)
                self.register_buffer(f"direction{number}", start)
                self._spectral_norm(number, _FIRST_STEPS)

    @torch.no_grad()
    def forward(self) -> None:
        """Project every layer."""
        for number, layer in enumerate(self.layers):
            norm = self._spectral_norm(number, _STEPS) if self.norm == "2" else absolute_norm(layer, self.norm)
            layer.weight.div_((self.lam * norm).clamp_min(1))
        for scale in self.scales:
            if scale.running_var is not None:  # else it divides by the batch's own deviation, also when evaluated
                factor = (scale.weight.abs() * (scale.running_var + scale.eps).rsqrt()).amax()
                scale.weight.div_((self.lam * factor).clamp_min(1))

    def _spectral_norm(self, number: int, steps: int) -> Tensor:
        """Move a layer's direction towards its first singular vector, and return the norm that this shows."""
        layer, direction = self.layers[number], self.get_buffer(f"direction{number}")
        square = direction.new_zeros(())
        for _ in range(steps):
            image = _gram(layer, direction)
            square = image.norm()  # ‖AᵀAv‖, at most the square of the norm
            direction.copy_(image / square.clamp_min(torch.finfo(image.dtype).tiny))
        return square.sqrt()


class Spectral(Method):
    """Minimise the loss alone, with the norm of each layer projected to at most 1/λ after each step.

    λ is steered: while the accuracy is above the target, the norms have to become smaller. Batch norms are bounded,
    too; what the network does between its layers is not.

    Reference:
        Gouk et al. 2020, "Regularisation of neural networks by enforcing Lipschitz continuity".
    """

    name = "spectral"
    adds = "the loss, with the norm of each layer projected to at most 1/λ"
    cost = "1 + the projection"
    source = "Gouk et al. 2020"
    group = "constraints on layers"
    options = LayerNormOptions
    steered = True
    responds_slowly = True
    same_noise = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.first_lam: float | None = first_lam_of(setting, _USUAL_LAM)
        norm = setting.options_of(LayerNormOptions).norm_of_layers or "2"
        x = setting.data.train.x[:1]
        self.penalty: LayerProjection = LayerProjection(
            self.first_lam, setting.network, x, norm=norm, generator=setting.noise
        ).to(setting.device)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output = network(x)
        fit = self.loss(output, y)
        return Losses(fit, fit, output)

    def after_step(self) -> None:
        self.penalty()


def _input_shapes(network: nn.Module, x: Tensor, layers: list[nn.Linear | _ConvNd]) -> dict[nn.Module, torch.Size]:
    """Return the shape of the input of each layer that the network calls; of a dense layer, that of one vector."""
    shapes: dict[nn.Module, torch.Size] = {}

    def record(layer: nn.Module, given: tuple[Any, ...]) -> None:
        shape = given[0].shape
        shapes[layer] = shape[-1:] if isinstance(layer, nn.Linear) else shape

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        with evaluation_mode(network), torch.no_grad():
            network(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


@torch.enable_grad()
def _gram(layer: nn.Linear | _ConvNd, v: Tensor) -> Tensor:
    """Return AᵀA v, where A is the layer without its bias."""
    v = v.detach().requires_grad_()
    weights = {"weight": layer.weight.detach()}
    if layer.bias is not None:
        weights["bias"] = torch.zeros_like(layer.bias)
    image = functional_call(layer, weights, (v,))
    (pulled,) = torch.autograd.grad(image, v, image.detach())
    return pulled
