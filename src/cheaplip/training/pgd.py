"""L2 projected gradient ascent (PGD) on any loss, for adversarial training and for attacks on a regression.

Attacks on a classifier are in ``cheaplip.robustness``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.model import Model
from cheaplip.quotient import distance

__all__ = ["perturb"]


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
) -> Tensor:
    r"""Move inputs within distance ε, inside the box, so that a loss becomes larger.

    The ascent starts at a random point of the ball and takes normalised steps of length 2.5·ε / ``steps``.

    Args:
        model: from inputs (B, \*input) to outputs.
        loss: from outputs and ``y`` to the loss summed over the batch.
        x, y: inputs (B, \*input), and the labels that the loss compares their outputs with.
        epsilon: Euclidean radius, above 0.
        steps: number of gradient steps.
        domain: the box that the perturbed inputs stay in.
        generator: draws the start; on the inputs' device.

    Returns:
        The perturbed inputs, (B, \*input).

    Reference:
        Madry et al. 2018.
    """
    column = (-1, *[1] * (x.dim() - 1))
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    radius = epsilon * torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
    shift = noise * (radius / distance(noise)).reshape(column)
    for _ in range(steps):
        at = domain.project(x + shift).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(at), y), at)
        length = distance(gradient).clamp_min(torch.finfo(x.dtype).tiny).reshape(column)
        shift = at.detach() - x + 2.5 * epsilon / steps * gradient / length
        shift = shift * (epsilon / distance(shift).clamp_min(epsilon)).reshape(column)
    return domain.project(x + shift).detach()
