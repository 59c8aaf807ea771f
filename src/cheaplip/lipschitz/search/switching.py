"""Where activations switch: the corners of the regions on which a network is affine, or nearly so.

A piecewise linear network may be steepest in a region that is too small for a random move to hit. But every region has
corners, where pre-activations vanish, and solving for those finds it. Smooth activations are steepest there.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cheaplip.domain import Box, Domain
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.rounding import NONZERO

__all__ = ["FEW", "Switches", "nearest_switch", "switches"]

Switches = Callable[[Tensor], Tensor]
"""Function of inputs (B, \\*input) to values (B, N), each 0 where one activation goes from a piece to the next."""

FEW = 16
"""Most inputs of a network whose regions are searched by their corners."""

_MOST = 4096  # values; with more, the search would meet too few of the corners for them to matter
_INFINITE = {-math.inf, math.inf}


def switches(chain: Chain, domain: Domain | None = None) -> Switches | None:
    """Return the function that vanishes where an activation of the chain switches.

    With few inputs, the faces of a box count, too: regions have corners there.

    Args:
        chain: the model.
        domain: where inputs live. None: all of space.

    Returns:
        The function; None if nothing switches, or more than 4096 values would vanish somewhere.
    """
    ends = {
        at: sorted({end for start, stop, _ in link.operation.activation.pieces for end in (start, stop)} - _INFINITE)
        for at, link in enumerate(chain.links)
        if isinstance(link.operation, Elementwise)
    }
    if not 0 < sum(len(some) * math.prod(chain.links[at].shape) for at, some in ends.items()) <= _MOST:
        return None

    def values(x: Tensor) -> Tensor:
        known, found = [x], _faces(x, domain)
        for at, link in enumerate(chain.links):
            taken = [known[i] for i in link.arguments]
            found += [taken[0].flatten(1) - end for end in ends.get(at, ())]
            known.append(link.operation(*taken))
        return torch.cat(found, dim=1)

    return values


def _faces(x: Tensor, domain: Domain | None) -> list[Tensor]:
    """Return, for each finite side of a box, how far the inputs (B, \\*input) lie beyond it, (B, N)."""
    if not isinstance(domain, Box) or math.prod(x.shape[1:]) > FEW:
        return []
    sides = [side.expand(x.shape[1:]) for side in domain.bounds(x.device, x.dtype)]
    return [(x - side)[:, side.isfinite()] for side in sides]


def nearest_switch(function: Switches, x: Tensor, chosen: Tensor) -> Tensor:
    r"""Compute the shortest move that makes some of the values vanish, if they were affine.

    Args:
        function: the values.
        x: inputs to move, (B, \*input).
        chosen: indices of the values that shall vanish for each input, (B, k).

    Returns:
        Moves, (B, \*input); meaningless where the chosen gradients are linearly dependent.
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        values = function(at).gather(1, chosen)
        rows = [torch.autograd.grad(values[:, j].sum(), at, retain_graph=True)[0] for j in range(chosen.shape[1])]
    jacobian = torch.stack([row.flatten(1) for row in rows], dim=1).double()
    gram = jacobian @ jacobian.mT
    gram.diagonal(dim1=1, dim2=2).add_(1e-12 * gram.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True) + NONZERO)
    weights = torch.linalg.solve_ex(gram, values.detach().double().unsqueeze(2)).result
    move: Tensor = -(jacobian.mT @ weights).reshape(x.shape)
    return move.nan_to_num(0.0, posinf=0.0, neginf=0.0).to(x)
