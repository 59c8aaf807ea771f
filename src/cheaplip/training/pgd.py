"""L2 projected gradient ascent (PGD) on any loss, for adversarial training and for attacks on a regression.

Attacks on a classifier are in ``cheaplip.robustness``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.model import Model, call_on_copy
from cheaplip.quotient import column, distance

__all__ = ["climbed", "perturb", "random_shift"]


def perturb(
    model: Model,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    steps: int,
    domain: Box,
    generator: torch.Generator,
    stride: float = 2.5,
    start: float = 1.0,
) -> Tensor:
    r"""Move inputs within distance ε, inside the box, so that a loss becomes larger.

    The ascent starts at a random point of a ball and takes normalised steps of length ``stride``·ε / ``steps``.

    Args:
        model: from inputs (B, \*input) to outputs.
        loss: from outputs and ``y`` to the loss summed over the batch.
        x, y: inputs (B, \*input), and the labels that the loss compares their outputs with.
        epsilon: Euclidean radius, above 0.
        steps: number of gradient steps.
        domain: the box that the perturbed inputs stay in.
        generator: draws the start; on the inputs' device.
        stride: length of all steps together, in units of ε.
        start: radius of the ball that the ascent starts in, in units of ε; 0: it starts at the inputs themselves.

    Returns:
        The perturbed inputs, (B, \*input).

    Reference:
        Madry et al. 2018; with one step Goodfellow, Shlens, Szegedy 2015, and with a random start Wong et al. 2020.
    """
    shift = random_shift(x, start * epsilon, generator) if start else torch.zeros_like(x)
    for _ in range(steps):
        at = domain.project(x + shift).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(call_on_copy(model, at), y), at)
        shift = climbed(at.detach() - x, gradient, stride * epsilon / steps, epsilon)
    return domain.project(x + shift).detach()


def random_shift(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    r"""Draw a perturbation for each input (B, \*input): its direction and its length, up to ``radius``, are uniform."""
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    lengths = radius * torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
    return noise * column(lengths / distance(noise), x)


def climbed(shift: Tensor, gradient: Tensor, length: float, epsilon: float) -> Tensor:
    r"""Take a normalised step along a gradient, and project the result on the ball of radius ε.

    Args:
        shift: perturbations, (B, \*input).
        gradient: of a loss at the perturbed inputs, (B, \*input); only its directions count.
        length: of the step.
        epsilon: radius of the ball.
    """
    norms = distance(gradient, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    shift = shift + length * gradient / norms
    return shift * (epsilon / distance(shift, keepdim=True).clamp_min(epsilon))
