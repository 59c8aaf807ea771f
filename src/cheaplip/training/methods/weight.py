"""Weight regularisation, the method that the paper compares CLIP with."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import SharedOptions

__all__ = ["Weight", "WeightOptions", "WeightPenalty"]


@dataclass(frozen=True, kw_only=True)
class WeightOptions(SharedOptions):
    """The options of weight regularisation."""

    mu: float = 1e-3
    """weight: the first μ"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if μ is out of its range."""
        self.check_first_weight("mu", self.mu)


class WeightPenalty(nn.Module):
    """L2 regularisation of the weight matrices, not of the biases: μ·Σ‖W‖².

    Args:
        lam: the first μ, at least 0; kept in the buffer ``lam``, where a controller can move it.

    Raises:
        ValueError: ``lam`` is negative or not finite.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(layer.weight, 3.0)
        >>> WeightPenalty(0.5)(layer).item()
        9.0
    """

    lam: Tensor

    def __init__(self, lam: float) -> None:
        super().__init__()
        if not (math.isfinite(lam) and lam >= 0):
            raise ValueError(f"lam: expected a finite number of at least 0, got {lam}")
        self.register_buffer("lam", torch.tensor(float(lam)))

    def forward(self, model: nn.Module) -> Tensor:
        """Return the penalty of a model, a scalar."""
        return self.lam * sum(w.square().sum() for w in model.parameters() if w.dim() > 1)


class Weight(Method):
    """Minimise the loss plus μ·Σ‖W‖² over the weight matrices, with μ steered to the target.

    Weights shrink slowly, therefore μ moves more slowly than CLIP's λ.
    """

    name = "weight"
    adds = "the loss + μ·Σ‖W‖² over the weight matrices"
    cost = "1"
    group = "penalties on weights"
    source = "the method compared with in Bungert et al. 2021, Section 4"
    options = WeightOptions
    steered = True
    responds_slowly = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.first_lam = setting.options_of(WeightOptions).mu
        self.penalty: WeightPenalty = WeightPenalty(self.first_lam).to(setting.device)

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        output = network(x)
        fit = self.loss(output, y)
        return Losses(fit + self.penalty(network), fit, output)
