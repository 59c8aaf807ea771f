"""What each training method minimises: plain, weight, clip, adversarial, certified, clip+certified."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip.clip import CLIP
from cheaplip.domain import Box
from cheaplip.training.ascent import ascend

__all__ = [
    "METHODS",
    "STEERED",
    "Loss",
    "Objective",
    "WeightPenalty",
    "adversarial",
    "bounded",
    "certified",
    "joint",
    "orthogonal_",
    "penalised",
    "plain",
]

METHODS = ("plain", "weight", "clip", "adversarial", "certified", "clip+certified")

STEERED = ("weight", "clip", "clip+certified")  # their penalty has a weight that follows a target

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs and labels of a batch to a scalar."""

_SOFTNESS = 0.2  # temperature of the certified loss, in units of its margin


@dataclass(frozen=True)
class Objective:
    r"""A method at work.

    Attributes:
        step: (model, x, y) → (loss to minimise, loss without penalties, outputs): scalar, scalar, (B, classes).
        penalty: the module whose ``lam`` is steered, if any; its state belongs to the checkpoint.
        bound: the bound of the model that the loss contains, if any, with multipliers to train.
    """

    step: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    penalty: nn.Module | None = None
    bound: nn.Module | None = None


class WeightPenalty(nn.Module):
    """L2 regularisation μ·Σ‖W‖² of the weight matrices (not the biases), the paper's rival; μ sits in ``lam``.

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
        """The penalty, a scalar."""
        return self.lam * sum(w.square().sum() for w in model.parameters() if w.dim() > 1)


def plain(loss: Loss = cross_entropy) -> Objective:
    """The loss alone."""

    def step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = model(x)
        fit = loss(output, y)
        return fit, fit, output

    return Objective(step)


def penalised(penalty: nn.Module, loss: Loss = cross_entropy) -> Objective:
    """The loss plus ``penalty(model)``: weight regularisation, or CLIP with a pass of its own."""

    def step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = model(x)
        fit = loss(output, y)
        return fit + penalty(model), fit, output

    return Objective(step, penalty)


def joint(clip: CLIP, loss: Loss = cross_entropy) -> Objective:
    """The loss plus the CLIP penalty from the batch's own pass."""

    def step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, penalty = clip.joint(model, x)
        fit = loss(output, y)
        return fit + penalty, fit, output

    return Objective(step, clip)


def adversarial(
    epsilon: float, steps: int, domain: Box, generator: torch.Generator, loss: Loss = cross_entropy
) -> Objective:
    """The loss at inputs perturbed by L2 projected gradient ascent, see :func:`cheaplip.training.ascent.ascend`.

    Args:
        epsilon: radius of the ball.
        steps: gradient steps for each batch.
        domain: where inputs live.
        generator: randomness of the starts, on the inputs' device.
        loss: the mean of what inputs ascend.
    """

    def summed(output: Tensor, y: Tensor) -> Tensor:
        return loss(output, y) * len(output)

    def step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        perturbed = ascend(model, summed, x, y, epsilon=epsilon, steps=steps, domain=domain, generator=generator)
        output = model(perturbed)
        fit = loss(output, y)
        return fit, fit, output

    return Objective(step)


def certified(bound: nn.Module, margin: float) -> Objective:
    r"""A smooth hinge on the leads of z = f(x) / L, with L a proved bound of Lip(f):

    .. math:: t \log\Big(1 + \sum_{j≠y} \exp\frac{m - (z_y - z_j)}{t}\Big), \quad t = m / 5.

    z is 1-Lipschitz whatever the architecture, so z_y − max z_j is √2 times a radius within which the class y is
    certain: what is trained is the certificate. For t → 0 it is the hinge max(0, m − (z_y − max z_j)), which small
    networks answer by giving up: all their outputs become the same. The model itself stays as it is, undivided.

    Args:
        bound: L, a scalar, from no arguments; differentiable in the model's weights.
        margin: m.
    """
    temperature = _SOFTNESS * margin

    def step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = model(x)
        own = nn.functional.one_hot(y, output.shape[1]).bool()
        behind = (output - output[own].unsqueeze(1)) / bound().to(output.dtype)
        terms = torch.where(own, 0.0, (margin + behind) / temperature)
        fit = temperature * terms.logsumexp(dim=1).mean()
        return fit, fit, output

    return Objective(step, bound=bound)


def bounded(objective: Objective, bound: nn.Module) -> Objective:
    """``objective`` plus λ·L, with the λ of its own penalty and L a proved bound of Lip(f)."""
    assert objective.penalty is not None
    lam = objective.penalty.get_buffer("lam")

    def step(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, fit, output = objective.step(model, x, y)
        return loss + lam * bound().to(loss.dtype), fit, output

    return Objective(step, objective.penalty, bound)


@torch.no_grad()
def orthogonal_(model: nn.Module, seed: int) -> None:
    """Replace each weight by a (semi-)orthogonal one, drawn from ``seed``, and each bias of a linear map by zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            module.weight.copy_(nn.init.orthogonal_(torch.empty(module.weight.shape), generator=generator))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
