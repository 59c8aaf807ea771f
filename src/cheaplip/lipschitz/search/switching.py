"""Where activations switch: the corners of the regions on which a network is affine, or nearly so.

A piecewise linear network may be steepest in a region so small that no random move meets it; but every region has
corners, and those are found by solving for pre-activations that vanish. Smooth activations are steepest there.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.domain import Box, Domain
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Elementwise

__all__ = ["FEW", "Switches", "nearest_switch", "switches"]

Switches = Callable[[Tensor], Tensor]
"""For inputs (B, \\*input), values (B, N), each 0 where one activation goes from one piece to the next."""

FEW = 16  # inputs, up to which regions may be enclosed by corners
_MOST = 4096  # values for each input; beyond, corners are too many to matter


def switches(chain: Chain, domain: Domain | None = None) -> Switches | None:
    """Those of a chain, and the faces of a box of few inputs, where regions have corners, too; None if the chain has
    none, or more than 4096."""
    ends = {
        at: sorted({end for start, stop, _ in step.operation.activation.pieces for end in (start, stop)} - _INFINITE)
        for at, step in enumerate(chain.steps)
        if isinstance(step.operation, Elementwise)
    }
    if not 0 < sum(len(some) * math.prod(chain.steps[at].shape) for at, some in ends.items()) <= _MOST:
        return None

    def values(x: Tensor) -> Tensor:
        known, found = [x], _faces(x, domain)
        for at, step in enumerate(chain.steps):
            taken = [known[i] for i in step.arguments]
            found += [taken[0].flatten(1) - end for end in ends.get(at, ())]
            known.append(step.operation(*taken))
        return torch.cat(found, dim=1)

    return values


_INFINITE = {-math.inf, math.inf}


def _faces(x: Tensor, domain: Domain | None) -> list[Tensor]:
    """For each finite side of a box, how far the inputs (B, \\*input) lie beyond it, (B, N)."""
    if not isinstance(domain, Box) or math.prod(x.shape[1:]) > FEW:
        return []
    sides = [side.expand(x.shape[1:]) for side in domain.bounds(x.device, x.dtype)]
    return [(x - side)[:, side.isfinite()] for side in sides]


def nearest_switch(function: Switches, x: Tensor, chosen: Tensor) -> Tensor:
    r"""The shortest step that makes some of the values vanish, were they affine.

    Args:
        function: the values.
        x: where from, (B, \*input).
        chosen: which values, for each input, (B, k) indices.

    Returns:
        Steps, (B, \*input); of no meaning where the chosen gradients are dependent.
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        values = function(at).gather(1, chosen)
        rows = [torch.autograd.grad(values[:, j].sum(), at, retain_graph=True)[0] for j in range(chosen.shape[1])]
    jacobian = torch.stack([row.flatten(1) for row in rows], dim=1).double()
    gram = jacobian @ jacobian.mT
    gram.diagonal(dim1=1, dim2=2).add_(1e-12 * gram.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True) + 1e-290)
    weights = torch.linalg.solve_ex(gram, values.detach().double().unsqueeze(2)).result
    step: Tensor = -(jacobian.mT @ weights).reshape(x.shape)
    return step.nan_to_num(0.0, posinf=0.0, neginf=0.0).to(x)
