r"""SeqLip (Scaman and Virmaux 2018): the layers of a network two by two, joined by their singular values.

With W_i = U_i Σ_i V_iᵀ, each inner weight is divided between the two activations beside it, so that

.. math:: Lip(f) ≤ \prod_{i=1}^{L-1} \max_{σ} ‖\tildeΣ_{i+1} V_{i+1}^⊤ \operatorname{diag}(σ) U_i \tildeΣ_i‖,

where Σ̃ is Σ^{1/2} for inner weights, and Σ at both ends, and σ runs over the slopes of the neurons of layer i. The norm
is convex in σ, so that its maximum is at the ends of the slopes. Finding it is hard: the authors climb greedily, which
gives too small a value at times, and so no bound. Here

- a layer of up to ``MOST_NEURONS`` neurons has the exact maximum, over all 2ⁿ choices of ends;
- a larger one has the semidefinite bound of that maximum (LipSDP-Neuron of the two matrices), which may be above it.

**Rounding.** Any factors P Q in place of W give a bound of the network with the weights P Q. How much that network may
differ is added: Σ_i ‖W_i − P_i Q_i‖ times the norms of all other weights.

Reference:
    Scaman and Virmaux 2018, Lipschitz regularity of deep neural networks: analysis and efficient estimation, Section 5.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.layer import margin, raised
from cheaplip.lipschitz.bounds.lipsdp import ProvedBound, Slopes, certify, optimise
from cheaplip.lipschitz.bounds.published.scaled import Scaled, frobenius, product_error, spectral
from cheaplip.lipschitz.rounding import UP, product_up

__all__ = ["MOST_NEURONS", "seqlip"]

MOST_NEURONS = 12
"""Neurons of a layer, up to which all choices of their slopes are tried."""

_ENTRIES = 1 << 21  # of the matrices held at once


def seqlip(weights: Sequence[Tensor], slopes: Slopes, *, seconds: float = 10.0) -> ProvedBound:
    """Compute the bound of a network W_L φ(… φ(W_1 x)).

    Args:
        weights: W_1 … W_L, each (n_out, n_in).
        slopes: of the L − 1 hidden layers.
        seconds: for the semidefinite bounds of layers with many neurons, about.

    Returns:
        The bound, rounded upwards; inf, with the reason, where nothing could be proved.
    """
    deadline = time.monotonic() + seconds
    network = Scaled.of(weights, slopes)
    if not network.slopes:
        return network.proved(network.norms[0])
    first, *inner, last = network.weights
    halves = [_divided(weight) for weight in inner]
    before = [first, *(left for left, _ in halves)]
    after = [*(right for _, right in halves), last]
    bounds = []
    for at, (inside, outside, both) in enumerate(zip(before, after, network.slopes, strict=True)):
        left = max(0.0, deadline - time.monotonic()) / (len(before) - at)
        found = _pair(inside, outside, *both, left)
        if found.reason:
            return ProvedBound(math.inf, found.reason)
        bounds.append(found.value)
    steepest = product_up(*(float(torch.maximum(low.abs(), high.abs()).max()) for low, high in network.slopes))
    errors = [0.0, *(_error(weight, *both) for weight, both in zip(inner, halves, strict=True)), 0.0]
    sizes = [norm + error for norm, error in zip(network.norms, errors, strict=True)]
    off = [product_up(steepest, error, *sizes[:at], *sizes[at + 1 :]) for at, error in enumerate(errors)]
    return network.proved((product_up(*bounds) + math.fsum(off)) * UP)


def _divided(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Divide W = U Σ Vᵀ into U Σ^{1/2} and Σ^{1/2} Vᵀ."""
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    root = values.sqrt()
    return u * root, root.unsqueeze(1) * v


def _error(weight: Tensor, left: Tensor, right: Tensor) -> float:
    """Bound ‖W − P Q‖."""
    return spectral(weight - left @ right) + product_error(left, right) + 1e-15 * frobenius(weight)


def _pair(before: Tensor, after: Tensor, low: Tensor, high: Tensor, seconds: float) -> ProvedBound:
    """Bound ‖A diag(σ) B‖ for slopes σ in their ranges."""
    free = (low < high).nonzero().flatten()
    if len(free) > MOST_NEURONS:
        return certify([before, after], [(low, high)], optimise([before, after], [(low, high)], seconds=seconds))
    before, after = _narrow(before), _narrow(after.mT).mT
    ends = torch.arange(1 << len(free)).unsqueeze(1) >> torch.arange(len(free)) & 1
    largest = 0.0
    for chosen in torch.split(ends, max(1, _ENTRIES // (len(after) * max(before.shape)))):
        slopes = low.expand(len(chosen), -1).clone()
        slopes[:, free] = torch.where(chosen > 0, high[free], low[free])
        scaled = after * slopes.unsqueeze(1)
        largest = max(largest, spectral(scaled @ before))
    steepest = after * torch.maximum(low.abs(), high.abs())
    return ProvedBound((largest + product_error(steepest, before)) * UP, "")


def _narrow(matrix: Tensor) -> Tensor:
    """Replace a matrix W with more columns than rows by a square L with L Lᵀ ≽ W Wᵀ."""
    if matrix.shape[1] <= len(matrix):
        return matrix
    gram = matrix @ matrix.mT
    gram = raised(gram, gram.diagonal().max().expand(len(gram)), 2 * margin(*matrix.shape))
    factor: Tensor = torch.linalg.cholesky(gram)
    return factor
