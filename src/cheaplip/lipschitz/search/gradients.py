"""What a search climbs on where torch cannot differentiate the model with respect to its inputs."""

import torch
from torch import Tensor, nn

from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.model import Model, call_on_copy
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import column

__all__ = ["Flat", "is_cut_off", "to_climb"]


class Flat(nn.Module):
    """A model with the gradient 0: pairs stay where they start, and their quotients are measured.

    Args:
        model: one tensor in, one tensor out.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Compute the model's outputs, as real or complex numbers."""
        with torch.no_grad():
            out = call_on_copy(self.model, x.detach())
        out = out if out.is_floating_point() or out.is_complex() else out.to(x.dtype)
        return out + column(0 * x.flatten(1).sum(dim=1), out)


def to_climb(model: Model, chain: Chain | None, x: Tensor) -> Model:
    r"""Return what pairs can climb on: the model, else its chain, which computes the same, else the model, flat.

    Args:
        model: one tensor in, one tensor out.
        chain: what was read of it, if it can be read.
        x: a few inputs to try, (B, \*input).
    """
    try:
        if not is_cut_off(model, x):
            return model
    except RuntimeError:  # what torch raises for operations that it does not differentiate
        if chain is not None:
            return chain
    return Flat(model)


def is_cut_off(model: Model, x: Tensor) -> bool:
    r"""Return whether the output does not depend differentiably on the inputs (B, \*input), as under ``no_grad``."""
    at = x.detach().clone().requires_grad_()
    with evaluation_mode(model), torch.enable_grad():
        out = call_on_copy(model, at)
        out = out.abs() if out.is_complex() else out
        return not out.requires_grad or torch.autograd.grad(out.sum(), at, allow_unused=True)[0] is None
