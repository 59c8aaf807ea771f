"""L2 projected gradient ascent on a loss: what adversarial training and the attack on a regression both do."""

from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.model import Model
from cheaplip.quotient import distance

__all__ = ["ascend"]


def ascend(
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
    r"""Inputs within ε of ``x``, inside the box, with a larger loss: random start, normalised steps of 2.5·ε/steps.

    Args:
        model: from inputs (B, \*input) to outputs.
        loss: from outputs and ``y`` to the loss summed over the batch.
        x, y: inputs (B, \*input), and what the loss compares their outputs with.
        epsilon: Euclidean radius, above 0.
        steps: gradient steps.
        domain: where inputs live.
        generator: of the start, on the inputs' device.

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
