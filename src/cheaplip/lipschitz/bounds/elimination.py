r"""LipSDP-Neuron by elimination: from multipliers T to a bound of Lip(f), layer by layer, in float64.

For f = W_L φ(… φ(W_1 x)) with secant slopes in [α, β], one interval for each neuron, every increment (z, h) of a
hidden layer satisfies (h − αz)ᵀ T (h − βz) ≤ 0 for every positive diagonal T. If the rest of the network stretches h
by at most hᵀ G h, the layer h = φ(z), z = Wx, together with the rest, stretches x by at most

.. math:: \max_h\; h^⊤ G h - 2 (h - αz)^⊤ T (h - βz) = x^⊤ W^⊤ [(α+β) T B^{-1} T (α+β) - 2αβT] W x, \quad B = 2T - G

if B is positive definite. Starting from G = W_Lᵀ W_L, the largest eigenvalue of the last G bounds Lip². The same
slopes bound the transposed network, whose elimination starts at the inputs, from W_1 W_1ᵀ, and ends at the outputs:
whichever ends in fewer dimensions is used, so a wide input costs one Gram matrix. Both have the same optimum.

Where a slope is fixed or nearly so (α = β: a dead or a stable ReLU, a value passing by in a residual block), T would
have to be infinite. Such layers use the equal form with h = cz + rv, |v| ≤ |z|, c = (α+β)/2, r = (β−α)/2, S = 2Tr² on
the neurons with r > 0, which has neither infinities nor cancellation:

.. math:: G ← A^⊤GA + W^⊤SW + A^⊤GE\,(S - E^⊤GE)^{-1} E^⊤GA, \quad A = cW, \; E = r.

**Rounding.** With ``rigorous=True`` every matrix that is computed is replaced by one that is certainly above it, so
that the result holds for the exact real arithmetic of the float64 weights given. All errors are of the form |Δ| ≤ γ a
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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Elimination", "Layer", "Step", "eliminate", "top_eigenvalue"]

_CANCELLATION = 30.0  # largest |c|/r for the form with T: it loses the square of that in accuracy
_BLOCK = 128  # columns of a Gram matrix at once
_TINY = 1e-280  # above all underflow


@dataclass(frozen=True)
class Layer:
    """One hidden layer as elimination meets it.

    Attributes:
        weight: the matrix on the far side of the neurons, (n, m).
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
        center, radius = (low + high) / 2, (high - low) / 2
        radius = torch.where(high > low, radius + 1e-15 * (low.abs() + high.abs()), 0)
        plain = bool((center.abs() <= _CANCELLATION * radius).all())
        return Layer(weight, low, high, center, radius, None if plain else radius.nonzero().flatten())


@dataclass(frozen=True)
class Step:
    """What eliminating a layer leaves behind: ``gram``, (m, m), and the factors that give the worst increment."""

    layer: Layer
    gram: Tensor
    factor: Tensor
    solved: Tensor

    def worst(self, x: Tensor) -> Tensor:
        """What attains the maximum for increments x, (m, k): h, (n, k), or in the form with S the v of its neurons."""
        inner: Tensor = torch.linalg.solve_triangular(self.factor.mT, self.solved @ x, upper=True)
        return inner

    def respond(self, x: Tensor) -> Tensor:
        """The neurons' increments h at which the maximum is attained, (n, k), for increments x, (m, k)."""
        inner = self.worst(x)
        if self.layer.loose is None:
            return inner
        h = self.layer.center.unsqueeze(1) * (self.layer.weight @ x)
        return h.index_add(0, self.layer.loose, self.layer.radius[self.layer.loose].unsqueeze(1) * inner)


def _margin(*sizes: int) -> float:
    """κ for matrices whose dimensions are ``sizes``."""
    k = sum(sizes) + 16
    return 8 * k * (k * 2.0**-53 / (1 - k * 2.0**-53))


def _seed(weight: Tensor) -> Tensor:
    gram = _gram(weight)
    return _raised(gram, gram.diagonal(), _margin(*weight.shape))


def _gram(weight: Tensor) -> Tensor:
    """WᵀW; of a large one only blocks on and below the diagonal are computed."""
    gram = weight.new_empty(weight.shape[1], weight.shape[1])
    for start in range(0, len(gram), _BLOCK):
        rows, columns = slice(start, None), slice(start, start + _BLOCK)
        block = weight[:, rows].mT @ weight[:, columns]
        gram[rows, columns], gram[columns, rows] = block, block.mT
    return gram


def eliminate(gram: Tensor, layer: Layer, t: Tensor, *, rigorous: bool = False) -> Step | None:
    """Eliminate one layer.

    Args:
        gram: G, (n, n), symmetric positive semidefinite.
        layer: its slopes and weight (n, m).
        t: multipliers, (n,), positive; those of neurons with equal slopes have no effect.
        rigorous: round so that the result bounds exact arithmetic.

    Returns:
        The step; None if B is not positive definite.
    """
    kappa = _margin(*layer.weight.shape) if rigorous else 0.0
    step = _eliminate_t(gram, layer, t, kappa) if layer.loose is None else _eliminate_s(gram, layer, t, kappa)
    return step if step is not None and bool(torch.isfinite(step.gram).all()) else None


def _eliminate_t(gram: Tensor, layer: Layer, t: Tensor, kappa: float) -> Step | None:
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
    return Step(layer, _raised(result, slack, kappa) if kappa else result, factor, solved)


def _eliminate_s(gram: Tensor, layer: Layer, t: Tensor, kappa: float) -> Step | None:
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
        return Step(layer, result, factor, solved)
    reach = gram.diagonal().sqrt() @ direct.abs()
    slack = reach.square() + s @ outer.square() + solved.square().sum(dim=0)
    return Step(layer, _raised(result, slack, kappa), factor, solved)


def _raised(matrix: Tensor, slack: Tensor, kappa: float) -> Tensor:
    raised = (matrix + matrix.mT) / 2
    raised.diagonal().add_(kappa * slack + _TINY)
    return raised


def top_eigenvalue(gram: Tensor) -> float:
    """A number certainly at least the largest eigenvalue of ``gram``; inf if none could be proved."""
    if not bool(torch.isfinite(gram).all()):
        return math.inf
    kappa = _margin(*gram.shape)
    top = max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)
    for inflation in (1e-12, 1e-10, 1e-8, 1e-6, 1e-3):
        raised = top * (1 + inflation + 2 * kappa) + _TINY
        pivot = -gram
        pivot.diagonal().add_(raised * (1 - kappa))
        if not torch.linalg.cholesky_ex(pivot).info:
            return raised
    return math.inf


@dataclass(frozen=True)
class Elimination:
    """A network in the order in which its layers are eliminated, each weight scaled by a power of two.

    Attributes:
        first: the matrix at the start.
        gram: the first G, its Gram matrix, rounded up.
        layers: in order.
        forward: whether the order runs from the inputs to the outputs, on the transposed network.
        exponent: the scales' product is 2**exponent.
        lift: from increments that the last layer's weight takes to those of the network's end; None: the same.
    """

    first: Tensor
    gram: Tensor
    layers: tuple[Layer, ...]
    forward: bool
    exponent: int
    lift: Tensor | None

    @staticmethod
    def of(
        weights: Sequence[Tensor],
        slopes: Sequence[tuple[Tensor, Tensor]],
        *,
        forward: bool | None = None,
        scaled: bool = True,
    ) -> "Elimination":
        """Read W_1 … W_L and the slopes of the L − 1 hidden layers; ``forward`` as fits best, unless it is given.

        Without ``scaled`` the weights stay as they are, and a bound with given multipliers is continuous in them.

        Raises:
            ValueError: shapes do not fit, or entries are not finite.
        """
        matrices, ranges = _checked(weights, slopes)
        if forward is None:
            forward = len(matrices[-1]) <= matrices[0].shape[1]
        scales = [_exponent(matrix) if scaled else 0 for matrix in matrices]
        matrices = [matrix * 2.0**-k if k else matrix for matrix, k in zip(matrices, scales, strict=True)]
        if forward:
            matrices = [matrix.mT for matrix in matrices]
        else:
            matrices, ranges = matrices[::-1], ranges[::-1]
        last, lift = matrices[-1], None
        if last.shape[1] > last.shape[0] and ranges:  # any L with LLᵀ ≽ WWᵀ may stand for W
            gram = last @ last.mT
            gram = _raised(gram, gram.diagonal().max().expand(len(gram)), 2 * _margin(*last.shape))
            matrices[-1] = torch.linalg.cholesky(gram)
            lift = torch.linalg.solve_triangular(matrices[-1], last, upper=False).mT
        layers = tuple(Layer.of(matrix, *both) for matrix, both in zip(matrices[1:], ranges, strict=True))
        return Elimination(matrices[0], _seed(matrices[0]), layers, forward, sum(scales), lift)

    def run(self, multipliers: Sequence[Tensor], *, rigorous: bool = False) -> list[Step]:
        """Eliminate the layers, ``multipliers`` in their order, up to the first whose factorisation fails."""
        steps: list[Step] = []
        gram = self.gram
        for layer, t in zip(self.layers, multipliers, strict=True):
            step = eliminate(gram, layer, t, rigorous=rigorous)
            if step is None:
                break
            steps.append(step)
            gram = step.gram
        return steps

    def feasible(self, multipliers: Sequence[Tensor]) -> bool:
        """Whether every layer can be eliminated, in plain float64."""
        return len(self.run(multipliers)) == len(self.layers)

    def lifted(self, x: Tensor) -> Tensor:
        """Increments at the end of the network, (m, k), for ``x``, as the last eliminated layer sees them."""
        return x if self.lift is None else self.lift @ x

    def ordered(self, multipliers: Sequence[Tensor]) -> list[Tensor]:
        """From the order of the network to that of elimination, or back."""
        return list(multipliers) if self.forward else list(multipliers)[::-1]


def _exponent(matrix: Tensor) -> int:
    size = float(matrix.abs().max())
    rows = matrix / size if size > 0 else matrix
    norm = size * math.sqrt(max(float(rows.square().sum()), 1.0) / min(matrix.shape))
    return min(max(math.frexp(norm)[1], -1000), 1000) if norm > 0 and math.isfinite(norm) else 0


def _checked(
    weights: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    if len(slopes) != len(weights) - 1:
        raise ValueError(
            f"expected a pair of slopes for each hidden layer, one less than weights, got {len(weights)} weights and "
            f"{len(slopes)} pairs"
        )
    matrices: list[Tensor] = []
    for at, weight in enumerate(weights, start=1):
        matrix = weight.detach().cpu().double()
        if matrix.dim() != 2 or 0 in matrix.shape or (matrices and matrix.shape[1] != len(matrices[-1])):
            before = f", with n_in = {len(matrices[-1])}, the rows of weight {at - 1}" if matrices else ""
            raise ValueError(f"weight {at}: expected a matrix (n_out, n_in){before}, got shape {tuple(matrix.shape)}")
        if not bool(torch.isfinite(matrix.sum()) or torch.isfinite(matrix).all()):  # the sum is cheaper
            raise ValueError(f"weight {at}: expected finite numbers, got NaN or infinity")
        matrices.append(matrix)
    ranges: list[tuple[Tensor, Tensor]] = []
    for at, (matrix, both) in enumerate(zip(matrices[:-1], slopes, strict=True), start=1):
        low, high = (torch.as_tensor(s).detach().to(matrix).expand(len(matrix)) for s in both)
        if not bool((torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()):
            raise ValueError(f"slopes of hidden layer {at}: expected finite numbers with low <= high")
        ranges.append((low, high))
    return matrices, ranges
