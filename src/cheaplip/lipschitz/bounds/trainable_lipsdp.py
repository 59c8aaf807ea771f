"""The LipSDP bound of a chain of dense layers, with multipliers to train: what ``LipschitzBound`` has for each part."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.elimination import Elimination
from cheaplip.lipschitz.bounds.layer import EliminatedLayer, top_eigenvalue
from cheaplip.lipschitz.bounds.products import merging_error, norm_product_to_train
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.rounding import above

__all__ = ["TrainableLipSDP"]

_LARGE = 1e60  # beyond it, and below its inverse, products of squares may leave float64


class TrainableLipSDP:
    r"""The LipSDP bound of a chain, differentiable in its weights and its multipliers.

    Each call is one elimination in float64. The gradient is that of the largest eigenvalue λ. By the envelope theorem,
    the worst increment (z, h) of each layer is enough for it, so that the backward pass costs a few products of
    matrices and vectors:

    .. math:: λ = \|W_L h_{L-1}\|^2 - 2 \sum_l (h_l - αz_l)^⊤ T_l (h_l - βz_l), \quad z_l = W_l h_{l-1},

    at fixed h_l; in layers with S at fixed v_l, with h = cz + rv and (h - αz)(h - βz) = r²(v² - z²), see
    :mod:`cheaplip.lipschitz.bounds.layer`.

    Args:
        chain: of affine maps and elementwise activations.

    Attributes:
        log_multipliers: log T of each hidden layer, at first from the closed form.
        restarts: how often the multipliers became infeasible and were reset to the closed form.

    Raises:
        UnsupportedLayerError: the chain cannot be written out.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        with torch.no_grad():
            problem = Elimination.of(*chain.dense(), scaled=False)
        guess = problem.ordered(lipsdp.first_guess(problem))
        self.log_multipliers = [nn.Parameter(t.log().to(chain.device)) for t in guess]
        self.restarts = 0

    def __call__(self) -> Tensor:
        """Compute the bound: a float64 scalar on the chain's device; inf, without gradient, where nothing is proved."""
        weights, slopes = self._chain.dense()
        if not _are_ordinary(weights, slopes):
            return norm_product_to_train(self._chain)
        problem = Elimination.of(weights, slopes, scaled=False)
        eliminated = self._eliminated(problem)
        gram = eliminated[-1].gram if eliminated else problem.gram
        value = math.inf
        if len(eliminated) == len(problem.layers):
            value = (math.sqrt(top_eigenvalue(gram)) + merging_error(self._chain)) * above(4)
        if not 0 < value < math.inf:
            return weights[-1].new_tensor(value)
        smooth = self._lagrangian(problem, weights, eliminated, torch.linalg.eigh(gram)[1][:, -1:]).sqrt()
        return value + (smooth - smooth.detach())

    @torch.no_grad()
    def tighten_(self, seconds: float) -> None:
        """Set the multipliers to the best for the present weights."""
        if not _are_ordinary(*self._chain.dense()):
            return
        problem = Elimination.of(*self._chain.dense(), scaled=False)
        self._set(problem, lipsdp.solve(problem, self._ordered(problem), 1e-4, seconds))

    def _ordered(self, problem: Elimination) -> list[Tensor]:
        return problem.ordered([log.detach().cpu().double().exp() for log in self.log_multipliers])

    @torch.no_grad()
    def _set(self, problem: Elimination, multipliers: Sequence[Tensor]) -> None:
        for log, t in zip(self.log_multipliers, problem.ordered(multipliers), strict=True):
            log.copy_(t.log())

    def _eliminated(self, problem: Elimination) -> list[EliminatedLayer]:
        """Eliminate the layers; where the multipliers are infeasible, reset them first."""
        eliminated = problem.run(self._ordered(problem), rigorous=True)
        if len(eliminated) < len(problem.layers):
            self.restarts += 1
            self._set(problem, lipsdp.first_guess(problem))
            eliminated = problem.run(self._ordered(problem), rigorous=True)
        return eliminated

    def _lagrangian(
        self, problem: Elimination, weights: Sequence[Tensor], eliminated: Sequence[EliminatedLayer], top: Tensor
    ) -> Tensor:
        """Compute λ as a function of weights and multipliers, from the worst increments; ``top`` is the last one."""
        matrices = [weight.mT for weight in reversed(weights)] if problem.forward else list(weights)
        logs = self.log_multipliers[::-1] if problem.forward else self.log_multipliers
        h = problem.lifted(top).squeeze(1).to(weights[0])
        value = h.new_zeros(())
        for matrix, log, done in zip(matrices[:-1], logs, reversed(eliminated), strict=True):
            layer, worst = done.layer, done.worst(top).squeeze(1)
            top, z, t = done.respond(top), matrix @ h, log.exp()
            if layer.loose is None:
                h = worst.to(z)
                value = value - 2 * (t * (h - layer.low.to(z) * z) * (h - layer.high.to(z) * z)).sum()
            else:
                center, radius = layer.center.to(z), layer.radius.to(z)
                v = torch.zeros_like(layer.radius).index_copy(0, layer.loose, worst).to(z)
                h = center * z + radius * v
                value = value + 2 * (t * radius.square() * (z.square() - v.square())).sum()
        return value + (matrices[-1] @ h).square().sum()


def _are_ordinary(weights: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Return whether every tensor is 0 or has a size with which matrices are eliminated without scaling.

    What is not finite counts, too: it is refused there.
    """
    sizes = [float(tensor.detach().abs().max()) for tensor in (*weights, *(end for both in slopes for end in both))]
    return all(size == 0 or not math.isfinite(size) or 1 / _LARGE < size < _LARGE for size in sizes)
