r"""The bound of Combettes and Pesquet (2020): norms of products of neighbouring layers, averaged over all cuts.

An activation with slopes in [α, β] is φ = c + r Q, with c = (α+β)/2, r = (β−α)/2 and Q nonexpansive. So the difference
quotients of a network are products of W_m (c + r Q_{m−1}) W_{m−1} … W_1, which expand into 2^{m−1} terms: each layer's
activation is c, and its neighbours merge into one matrix, or it is r Q, and the network is cut there. With c = r = ½,
as for ReLU, that is the published

.. math:: ϑ_m = 2^{1-m} \Big( ‖W_m ⋯ W_1‖ + \sum_{j_1 < … < j_k} ‖W_m ⋯ W_{j_k + 1}‖ ⋯ ‖W_{j_1} ⋯ W_1‖ \Big).

Other slopes, also outside of [0, 1], have a c and an r for each neuron here. The terms that end with the same block
share it, so that the sum over all cuts takes m(m+1)/2 norms instead of 2^{m−1} products:

.. math:: θ_j = \sum_{i < j} θ_i ‖W_j C_{j-1} ⋯ W_{i+1} R_i‖, \qquad θ_0 = 1.

**Rounding.** A matrix P with ‖P − P*‖ ≤ e becomes W C P with an error of at most ‖WC‖ e + γ ‖WC‖_F ‖P‖_F.

Reference:
    Combettes and Pesquet 2020, Lipschitz certificates for layered network structures driven by averaged activation
    operators, SIAM Journal on Mathematics of Data Science 2(2), Theorem 4.2.
"""

from collections.abc import Sequence

from torch import Tensor

from cheaplip.lipschitz.bounds.layer import Layer
from cheaplip.lipschitz.bounds.lipsdp import ProvedBound, Slopes
from cheaplip.lipschitz.bounds.published.scaled import Scaled, frobenius, product_error, spectral
from cheaplip.lipschitz.rounding import UP

__all__ = ["combettes_pesquet"]


def combettes_pesquet(weights: Sequence[Tensor], slopes: Slopes) -> ProvedBound:
    """Compute the bound ϑ of a network W_m φ(… φ(W_1 x)).

    Args:
        weights: W_1 … W_m, each (n_out, n_in).
        slopes: of the m − 1 hidden layers.

    Returns:
        The bound, rounded upwards; inf, with the reason, where it is above the largest float64.
    """
    network = Scaled.of(weights, slopes)
    matrices = network.weights
    layers = [Layer.of(matrix, *both) for matrix, both in zip(matrices[:-1], network.slopes, strict=True)]
    totals = [1.0]
    for end, matrix in enumerate(matrices):
        right, error = matrix, 0.0  # the product W_end C … W_start, and how much it may be off
        total = 0.0
        for start in range(end, 0, -1):
            center, radius = layers[start - 1].center, layers[start - 1].radius
            cut = right * radius
            norm = spectral(cut) + error * float(radius.max()) + 1e-15 * frobenius(cut)
            total = (total + totals[start] * norm) * UP
            left, rest = right * center, matrices[start - 1]
            error = error * float(center.abs().max()) * network.norms[start - 1] * UP + product_error(left, rest)
            right = left @ rest
        totals.append((total + spectral(right) + error) * UP)
    return network.proved(totals[-1])
