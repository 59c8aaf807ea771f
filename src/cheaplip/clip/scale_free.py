"""CLIP without a scale: outputs divided by the tracked constant, so that the loss itself weighs the penalty."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip.aggregate import Aggregate
from cheaplip.clip.penalty import CLIP
from cheaplip.model import Model, check_model_and_inputs
from cheaplip.pairs import PairSet
from cheaplip.quotient import Norm

__all__ = ["ScaleFreeCLIP"]

_LEAST_RATE = 1e-4  # pairs climb even where the loss would rather have their quotients grow
_TINY = 1e-12


class ScaleFreeCLIP(nn.Module):
    r"""Divide a model's outputs by its tracked constant, z = f(x) / L, with L part of the graph.

    The accuracy of f does not depend on its scale, but Lip(f) and the cross-entropy do, so λ·Lip(f) first takes scale
    away, and then, past a critical λ, the network. Nothing is gained by scaling f here, and there is no λ: use a loss
    that has a scale of its own, such as :class:`MarginLoss`. Its gradient holds the gradient of the paper's penalty
    with the λ that the loss itself sets, :math:`λ = e / L` with the exchange rate :math:`e = -\sum ∂ℓ/∂z · z`.

        >>> import torch
        >>> from cheaplip import MarginLoss
        >>> x, y = torch.rand(64, 3), torch.randint(2, (64,))
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clip, margin_loss = ScaleFreeCLIP(PairSet(x, size=8)), MarginLoss(0.2)
        >>> for _ in range(3):
        ...     z, penalty = clip.joint(model, x)
        ...     loss = margin_loss(z, y) + penalty
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()

    So that pairs need be visited rarely, L is split into S · (L/S), with S the spread of the batch's outputs, which
    scales as L does:

    .. math:: ∇ℓ(f/L) = ∇ℓ\big(f/(κS)\big)\big|_{κ = L/S} - e·∇(\log S - \log L).

    The first part costs nothing and is taken in every step; it does not change with the scale of f, which therefore
    never drifts. The second is taken in each ``every``-th step at ``every`` times the weight, with κ and e averaged
    over recent steps.

    Args:
        pairs: the pairs that track L.
        every: visit the pairs in each ``every``-th call.
        aggregate: what L is, as in :class:`CLIP`. None: ``"softmax"`` if every call visits the pairs, else ``"mean"``.
        pull: weight of (log L)², which keeps the constant of f itself near 1, for nothing else does.
        memory: weight of the past in the averages of κ and e, in [0, 1).
        norm_in, norm_out: as in :class:`CLIP`.

    Attributes:
        clip: the penalty inside, with λ = 1; ``clip.largest`` is the largest quotient of f, not of z.

    Raises:
        ValueError: an option is out of range.

    Reference:
        Ours; for λ = e / L it is the penalty of Bungert et al. 2021.
    """

    ratio: Tensor
    rate: Tensor

    def __init__(
        self,
        pairs: PairSet,
        *,
        every: int = 4,
        aggregate: Aggregate | None = None,
        pull: float = 0.1,
        memory: float = 0.9,
        norm_in: Norm = 2,
        norm_out: Norm = 2,
    ) -> None:
        super().__init__()
        if not (math.isfinite(pull) and pull >= 0):
            raise ValueError(f"pull: expected a finite number of at least 0, got {pull}")
        if not 0 <= memory < 1:
            raise ValueError(f"memory: expected a number in [0, 1), got {memory}")
        aggregate = aggregate or ("softmax" if every == 1 else "mean")
        self.clip = CLIP(pairs, 1.0, aggregate=aggregate, every=every, norm_in=norm_in, norm_out=norm_out)
        self.pull = pull
        self.memory = memory
        self.register_buffer("ratio", torch.zeros_like(self.clip.lam))  # κ; 0 before the first visit
        self.register_buffer("rate", torch.zeros_like(self.clip.lam))  # e

    def extra_repr(self) -> str:
        """The options that are not the inner penalty's."""
        return f"pull={self.pull:g}, memory={self.memory:g}"

    @property
    def pairs(self) -> PairSet:
        """The pairs that track L."""
        return self.clip.pairs

    @property
    def largest(self) -> Tensor:
        """The largest quotient last seen, of f, a scalar."""
        return self.clip.largest

    def joint(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Compute z and what belongs to its loss, with one pass of the model for batch and pairs.

        Args:
            model: as for :meth:`CLIP.joint`.
            x: (B, \*input), B ≥ 2, of the same shape as the pairs' inputs.

        Returns:
            z, (B, \*output), in units of inputs: its Lipschitz constant is about 1; and a scalar to add to the loss
            of z.

        Raises:
            BatchDependentLayerError: a layer, named, mixes the inputs of a batch.
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` is not of the pairs' shape, or a single input, whose outputs have no spread.
        """
        return self._divide(*self._pass(model, x, shared=True))

    def forward(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the same with a pass of their own for the pairs: for any model, as ``clip(model)`` of CLIP."""
        return self._divide(*self._pass(model, x, shared=False))

    def _pass(self, model: Model, x: Tensor, *, shared: bool) -> tuple[Tensor, Tensor, bool]:
        """Outputs of the batch, L (``every`` times over in training), and whether the pairs were visited."""
        check_model_and_inputs("joint" if shared else "forward", model, x)
        if len(x) < 2:
            raise ValueError(f"x: expected a batch of two or more inputs, got {len(x)}: the spread of one is 0")
        visited = self.clip.due or not self.training
        output, level = self.clip.joint(model, x) if shared else (model(x), self.clip(model))
        return output, level, visited

    def _divide(self, output: Tensor, level: Tensor, visited: bool) -> tuple[Tensor, Tensor]:
        spread = output.var(dim=0, correction=0).mean().sqrt().clamp_min(_TINY)
        if visited:
            level = (level / self.clip.every if self.training else level).clamp_min(_TINY)
            self._average(level.detach() / spread.detach())
        z = _Metered.apply(output / (self.ratio * spread), self)  # type: ignore[no-untyped-call]
        if not visited:
            return z, self.pull * (self.ratio * spread).log().square()
        weight = self.clip.every * self.rate.clamp_min(_LEAST_RATE)
        return z, weight * (level.log() - spread.log()) + self.pull * level.log().square()

    @torch.no_grad()
    def _average(self, ratio: Tensor) -> None:
        past = torch.where(self.ratio > 0, self.memory, 0.0).to(ratio)
        self.ratio.copy_(torch.lerp(ratio, self.ratio, past))


class _Metered(torch.autograd.Function):
    r"""z itself, (B, \*output); the backward pass reads the exchange rate off it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, clip: ScaleFreeCLIP) -> Tensor:
        """Return z."""
        ctx.save_for_backward(z)
        ctx.clip = clip
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Note the exchange rate, and pass the gradient on."""
        (z,) = ctx.saved_tensors
        rate = -(gradient.conj() * z).sum().real.to(ctx.clip.rate)
        if ctx.clip.training:
            ctx.clip.rate.lerp_(torch.where(torch.isfinite(rate), rate, ctx.clip.rate), 1 - ctx.clip.memory)
        return gradient, None
