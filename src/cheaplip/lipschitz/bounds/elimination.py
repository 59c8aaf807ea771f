r"""LipSDP-Neuron by elimination: from multipliers T to a bound of Lip(f), layer by layer.

Starting from G = W_Lᵀ W_L at the outputs, :mod:`cheaplip.lipschitz.bounds.layer` eliminates one hidden layer after the
other; the largest eigenvalue of the last G bounds Lip². The same slopes bound the transposed network, whose elimination
starts at the inputs, from W_1 W_1ᵀ, and ends at the outputs. Both have the same optimum; the one that ends in fewer
dimensions is used, so a wide input costs one Gram matrix.

Reference:
    Fazlyab et al. 2019, Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural Networks;
    Xu and Sivaranjani 2024, ECLipsE.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.layer import EliminatedLayer, Layer, eliminate, margin, raised

__all__ = ["Elimination", "exponent_of"]

_BLOCK = 128  # columns of a Gram matrix computed at once


@dataclass(frozen=True)
class Elimination:
    """A network in the order in which its layers are eliminated, each weight scaled by a power of two.

    Attributes:
        first: the matrix at the start.
        gram: the first G, its Gram matrix, rounded up.
        layers: in order.
        forward: whether the order runs from the inputs to the outputs, on the transposed network.
        exponents: weight l was multiplied by 2**-exponents[l], in the order of the network.
        lift: maps increments that the last layer's weight takes to increments at the network's end. None: they are the
            same.
    """

    first: Tensor
    gram: Tensor
    layers: tuple[Layer, ...]
    forward: bool
    exponents: tuple[int, ...]
    lift: Tensor | None

    @staticmethod
    def of(
        weights: Sequence[Tensor],
        slopes: Sequence[tuple[Tensor, Tensor]],
        *,
        forward: bool | None = None,
        scaled: bool = True,
    ) -> "Elimination":
        """Arrange a network for its elimination.

        Args:
            weights: W_1 … W_L, each (n_out, n_in).
            slopes: lowest and highest slope of the neurons of each of the L − 1 hidden layers.
            forward: the order. None: the one that ends in fewer dimensions.
            scaled: whether to scale the weights by powers of two, against overflow. Without it, a bound with given
                multipliers is continuous in the weights.

        Raises:
            ValueError: shapes do not fit, or entries are not finite.
        """
        matrices, ranges = _checked(weights, slopes)
        if forward is None:
            forward = len(matrices[-1]) <= matrices[0].shape[1]
        scales = [exponent_of(matrix) if scaled else 0 for matrix in matrices]
        matrices = [matrix * 2.0**-k if k else matrix for matrix, k in zip(matrices, scales, strict=True)]
        if forward:
            matrices = [matrix.mT for matrix in matrices]
        else:
            matrices, ranges = matrices[::-1], ranges[::-1]
        last, lift = matrices[-1], None
        if last.shape[1] > last.shape[0] and ranges:  # any L with LLᵀ ≽ WWᵀ may stand for W
            gram = last @ last.mT
            gram = raised(gram, gram.diagonal().max().expand(len(gram)), 2 * margin(*last.shape))
            matrices[-1] = torch.linalg.cholesky(gram)
            lift = torch.linalg.solve_triangular(matrices[-1], last, upper=False).mT
        layers = tuple(Layer.of(matrix, *both) for matrix, both in zip(matrices[1:], ranges, strict=True))
        return Elimination(matrices[0], _seed(matrices[0]), layers, forward, tuple(scales), lift)

    def run(self, multipliers: Sequence[Tensor], *, rigorous: bool = False) -> list[EliminatedLayer]:
        """Eliminate the layers, with ``multipliers`` in the same order, up to the first that cannot be eliminated."""
        eliminated: list[EliminatedLayer] = []
        gram = self.gram
        for layer, t in zip(self.layers, multipliers, strict=True):
            result = eliminate(gram, layer, t, rigorous=rigorous)
            if result is None:
                break
            eliminated.append(result)
            gram = result.gram
        return eliminated

    def feasible(self, multipliers: Sequence[Tensor]) -> bool:
        """Return whether every layer can be eliminated, in plain float64."""
        return len(self.run(multipliers)) == len(self.layers)

    @property
    def exponent(self) -> int:
        """The bound of the network is 2**exponent times that of the scaled one."""
        return sum(self.exponents)

    def lifted(self, x: Tensor) -> Tensor:
        """Convert increments ``x`` that the last layer's weight takes, (m, k), to increments at the network's end."""
        return x if self.lift is None else self.lift @ x

    def ordered(self, multipliers: Sequence[Tensor]) -> list[Tensor]:
        """Convert multipliers from the order of the network to that of elimination, or back."""
        return list(multipliers) if self.forward else list(multipliers)[::-1]


def exponent_of(matrix: Tensor) -> int:
    """Return k such that 2**k is about the norm of the matrix."""
    size = float(matrix.abs().max())
    rows = matrix / size if size > 0 else matrix
    norm = size * math.sqrt(max(float(rows.square().sum()), 1.0) / min(matrix.shape))
    return min(max(math.frexp(norm)[1], -1000), 1000) if norm > 0 and math.isfinite(norm) else 0


def _checked(
    weights: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Return weights and slopes in float64 on the CPU, with slopes (n,); raise where they do not fit."""
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


def _seed(weight: Tensor) -> Tensor:
    """Return a matrix certainly above WᵀW."""
    gram = _gram(weight)
    return raised(gram, gram.diagonal(), margin(*weight.shape))


def _gram(weight: Tensor) -> Tensor:
    """Return WᵀW; of a large one only the blocks on and below the diagonal are computed."""
    gram = weight.new_empty(weight.shape[1], weight.shape[1])
    for start in range(0, len(gram), _BLOCK):
        rows, columns = slice(start, None), slice(start, start + _BLOCK)
        block = weight[:, rows].mT @ weight[:, columns]
        gram[rows, columns], gram[columns, rows] = block, block.mT
    return gram
