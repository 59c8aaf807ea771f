r"""Eliminating one hidden layer: the step that LipSDP-Neuron repeats from layer to layer, in float64.

For f = W_L φ(… φ(W_1 x)) with secant slopes in [α, β], one interval for each neuron, every increment (z, h) of a
hidden layer satisfies (h − αz)ᵀ T (h − βz) ≤ 0 for every positive diagonal T. If the rest of the network stretches h
by at most hᵀ G h, the layer h = φ(z), z = Wx, together with the rest, stretches x by at most

.. math:: \max_h\; h^⊤ G h - 2 (h - αz)^⊤ T (h - βz) = x^⊤ W^⊤ [(α+β) T B^{-1} T (α+β) - 2αβT] W x, \quad B = 2T - G

if B is positive definite. So the layer is eliminated, and the right side has the form xᵀ G x of the next.
:mod:`cheaplip.lipschitz.bounds.elimination` does so for a whole network.

Where a slope is fixed or nearly so (α = β: a dead or a stable ReLU, a value bypassing it in a residual block), T would
have to be infinite. Such layers use the equivalent form with h = cz + rv, |v| ≤ |z|, c = (α+β)/2, r = (β−α)/2, and
S = 2Tr² on the neurons with r > 0, which has neither infinities nor cancellation:

.. math:: G ← A^⊤GA + W^⊤SW + A^⊤GE\,(S - E^⊤GE)^{-1} E^⊤GA, \quad A = cW, \; E = r.

**Rounding.** With ``rigorous=True`` every matrix that is computed is replaced by one that is certainly above it, so
that the result holds in exact real arithmetic for the given float64 weights. All errors are of the form |Δ| ≤ γ a
aᵀ entrywise, where γ_k = ku/(1−ku), u = 2⁻⁵³, k the sum of the dimensions, and a² the diagonal of a matrix at hand:
Cholesky factors and triangular solves have |LLᵀ − B| ≤ γ|L||Lᵀ| and |LX − K| ≤ γ|L||X|, whose right sides are bounded
by products of row norms; and a aᵀ ≼ k diag(a²). So it is enough to factor B minus κ diag(2T) and to add κ diag(a²) to
the result, with κ = 8kγ_k, several times what the first-order terms add up to. The largest eigenvalue is accepted only
if λ(1−κ)I − G has a Cholesky factor itself.

Reference:
    Fazlyab et al. 2019, Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural Networks;
    Xu and Sivaranjani 2024, ECLipsE; Rump 2006, Verification of Positive Definiteness; Higham 2002, chapters 3, 8, 10.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.rounding import UNDERFLOW

__all__ = ["EliminatedLayer", "Layer", "eliminate", "margin", "raised", "top_eigenvalue"]

_CANCELLATION = 30.0  # largest |c|/r for the form with T: it loses the square of that in accuracy


@dataclass(frozen=True)
class Layer:
    """One hidden layer, with what its elimination needs.

    Attributes:
        weight: the matrix W between the neurons and what is eliminated next, (n, m).
        low, high: slopes, (n,).
        center, radius: (n,), with [center − radius, center + radius] containing [low, high] in exact arithmetic.
        loose: indices of the neurons with radius > 0 where the form with S is used; None for the form with T.
    """

    weight: Tensor
    low: Tensor
    high: Tensor
    center: Tensor
    radius: Tensor
    loose: Tensor | None

    @staticmethod
    def of(weight: Tensor, low: Tensor, high: Tensor) -> "Layer":
        """Choose the form for these slopes."""
        center, radius = (low + high) / 2, (high - low) / 2
        # 1e-15: more than the rounding of center and radius, so that the interval contains both slopes
        radius = torch.where(high > low, radius + 1e-15 * (low.abs() + high.abs()), 0)
        plain = bool((center.abs() <= _CANCELLATION * radius).all())
        return Layer(weight, low, high, center, radius, None if plain else radius.nonzero().flatten())


@dataclass(frozen=True)
class EliminatedLayer:
    """What the elimination of a layer results in.

    Attributes:
        layer: the layer.
        gram: the next G, (m, m).
        factor: the Cholesky factor L of B, or in the form with S of S − EᵀGE.
        solved: L⁻¹ times what couples the neurons to x; with ``factor`` it gives the worst increment.
    """

    layer: Layer
    gram: Tensor
    factor: Tensor
    solved: Tensor

    def worst(self, x: Tensor) -> Tensor:
        """Return what attains the maximum for increments x, (m, k): h, (n, k); in the form with S the neurons' v."""
        inner: Tensor = torch.linalg.solve_triangular(self.factor.mT, self.solved @ x, upper=True)
        return inner

    def respond(self, x: Tensor) -> Tensor:
        """Return the neurons' increments h that attain the maximum, (n, k), for increments x, (m, k)."""
        inner = self.worst(x)
        if self.layer.loose is None:
            return inner
        h = self.layer.center.unsqueeze(1) * (self.layer.weight @ x)
        return h.index_add(0, self.layer.loose, self.layer.radius[self.layer.loose].unsqueeze(1) * inner)


def margin(*sizes: int) -> float:
    """Return κ for matrices whose dimensions are ``sizes``."""
    k = sum(sizes) + 16
    return 8 * k * (k * 2.0**-53 / (1 - k * 2.0**-53))


def eliminate(gram: Tensor, layer: Layer, t: Tensor, *, rigorous: bool = False) -> EliminatedLayer | None:
    """Eliminate one layer.

    Args:
        gram: G, (n, n), symmetric positive semidefinite.
        layer: its slopes and weight (n, m).
        t: multipliers, (n,), positive; those of neurons with equal slopes have no effect.
        rigorous: round so that the result bounds exact arithmetic.

    Returns:
        The result; None if B is not positive definite.
    """
    kappa = margin(*layer.weight.shape) if rigorous else 0.0
    done = _eliminate_t(gram, layer, t, kappa) if layer.loose is None else _eliminate_s(gram, layer, t, kappa)
    return done if done is not None and bool(torch.isfinite(done.gram).all()) else None


def _eliminate_t(gram: Tensor, layer: Layer, t: Tensor, kappa: float) -> EliminatedLayer | None:
    weight = layer.weight
    pivot = -gram
    pivot.diagonal().add_(2 * (1 - kappa) * t)
    factor, failed = torch.linalg.cholesky_ex(pivot)
    if failed:
        return None
    solved = torch.linalg.solve_triangular(factor, ((layer.low + layer.high) * t).unsqueeze(1) * weight, upper=False)
    result = solved.mT @ solved
    slack = result.diagonal().clone() if kappa else result
    both = layer.low * layer.high * t
    if bool(both.any()):
        result -= 2 * (weight.mT @ (both.unsqueeze(1) * weight))
        slack = slack + 2 * (both.abs() @ weight.square())
    return EliminatedLayer(layer, raised(result, slack, kappa) if kappa else result, factor, solved)


def _eliminate_s(gram: Tensor, layer: Layer, t: Tensor, kappa: float) -> EliminatedLayer | None:
    assert layer.loose is not None
    weight, loose, radius = layer.weight, layer.loose, layer.radius[layer.loose]
    s = 2 * t[loose] * radius.square()
    direct = layer.center.unsqueeze(1) * weight
    pushed = gram @ direct
    pivot = -(radius.unsqueeze(1) * gram[loose][:, loose] * radius)
    pivot.diagonal().add_((1 - kappa) * s)
    factor, failed = torch.linalg.cholesky_ex(pivot)
    if failed:
        return None
    solved = torch.linalg.solve_triangular(factor, radius.unsqueeze(1) * pushed[loose], upper=False)
    outer = weight[loose]
    result = direct.mT @ pushed + outer.mT @ (s.unsqueeze(1) * outer) + solved.mT @ solved
    if not kappa:
        return EliminatedLayer(layer, result, factor, solved)
    reach = gram.diagonal().sqrt() @ direct.abs()
    slack = reach.square() + s @ outer.square() + solved.square().sum(dim=0)
    return EliminatedLayer(layer, raised(result, slack, kappa), factor, solved)


def raised(matrix: Tensor, slack: Tensor, kappa: float) -> Tensor:
    """Return a symmetric matrix certainly above one that was computed with errors of at most κ times ``slack``."""
    result = (matrix + matrix.mT) / 2
    result.diagonal().add_(kappa * slack + UNDERFLOW)
    return result


def top_eigenvalue(gram: Tensor) -> float:
    """Bound the largest eigenvalue of ``gram`` from above; inf if nothing could be proved."""
    if not bool(torch.isfinite(gram).all()):
        return math.inf
    kappa = margin(*gram.shape)
    top = max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)
    for inflation in (1e-12, 1e-10, 1e-8, 1e-6, 1e-3):
        bound = top * (1 + inflation + 2 * kappa) + UNDERFLOW
        pivot = -gram
        pivot.diagonal().add_(bound * (1 - kappa))
        if not torch.linalg.cholesky_ex(pivot).info:
            return bound
    return math.inf
