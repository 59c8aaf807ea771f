"""The paper's own attack: steps along the sign of the gradient, scaled back to the sphere."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cheaplip.robustness.stage import Problem, Stage

__all__ = ["sign_pgd"]

_STEPS = 100


def sign_pgd(problem: Problem, x: Tensor) -> list[Stage]:  # noqa: ARG001
    """Make the single stage of ``"pgd-sign"``."""
    return [partial(_perturbed, problem)]


def _perturbed(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    logits, epsilon, domain, *_ = problem

    def to_sphere(delta: Tensor) -> Tensor:
        return epsilon * normalize(delta.flatten(1)).view_as(delta)

    delta = to_sphere(domain.project(x + epsilon * (2 * torch.rand_like(x) - 1)) - x)
    rows = torch.arange(len(x), device=x.device)  # of the inputs whose class has not changed
    for _ in range(_STEPS):
        z = (x[rows] + delta[rows]).requires_grad_()
        output = logits(z)
        (gradient,) = torch.autograd.grad(cross_entropy(output, y[rows], reduction="sum"), z)
        left = output.argmax(1) == y[rows]
        rows = rows[left]
        if not len(rows):
            break
        delta[rows] = to_sphere(delta[rows] + epsilon / 8 * gradient[left].sign())
    return domain.project(x + delta)
