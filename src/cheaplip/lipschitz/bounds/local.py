r"""LipSDP bounds in a ball around each input, for every pair of outputs, in batches.

In the ball of radius ρ around x, a pre-activation z_i differs from z_i(x) by at most ρ √P_ii, where P is the joint
matrix of :mod:`cheaplip.lipschitz.bounds.fourier.gram` for the layers before. That narrows the slopes of neuron i, with
which the elimination goes on. Each input has its own slopes and multipliers; the weights are shared. Nothing but the
multipliers is free, and every choice of them gives a bound.

Matrices that stand for several layers are rounded. What that may change in a Lipschitz constant is added: to ‖Δz_i‖
and to the result. It is known of models with a constant on all of space only; bounds of others are infinite.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.gram import pair_bounds, raised, spread
from cheaplip.lipschitz.bounds.products import Norms, writing_error
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.reading.operations.activations import Activation
from cheaplip.lipschitz.reading.operations.bent import Bent
from cheaplip.lipschitz.reading.operations.interval import Interval
from cheaplip.lipschitz.rounding import EPS, UNDERFLOW, UP

__all__ = ["LocalBounds"]

_SUSPECT = 1e-12  # relative size of a diagonal, below which it counts as this much in the closed form


class _Layer(NamedTuple):
    """A hidden layer: the weight behind it, and its activation, which the first ``width`` of its neurons have.

    Attributes:
        source: index of the value that the activation takes.
        lost: how much rounding may have changed the constant of the layers before.
    """

    weight: Tensor
    activation: Activation | Bent
    source: int
    shape: tuple[int, ...]
    lost: float

    @property
    def width(self) -> int:
        """Neurons that have the activation."""
        return math.prod(self.shape)


class LocalBounds:
    r"""A model, prepared for bounds of Lip(f_i − f_j) in balls.

    Args:
        chain: the model, small enough to be written as matrices, with outputs (C,).

    Raises:
        UnsupportedLayerError: it cannot be written as matrices.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        with torch.no_grad():
            weights, slopes = chain.dense()
        self._first, *others = [weight.detach().double() for weight in weights]
        norms = Norms()

        def lost(value: int) -> float:
            before = Chain(chain.shape, chain.links[:value], chain.device)
            return writing_error(before, len(weights), norms=norms)

        bends = [link for link in chain.links if isinstance(link.operation, Elementwise)]
        self._layers = [
            _Layer(weight, link.operation.activation, link.arguments[0], link.shape, lost(link.arguments[0]))
            for weight, link, _ in zip(others, bends, slopes, strict=True)
            if isinstance(link.operation, Elementwise)
        ]
        gram = (self._first @ self._first.mT).unsqueeze(0)
        self._top: Tensor | None = None
        self._lost = math.sqrt(2) * lost(len(chain.links)) * UP
        self._gram = raised(gram, spread(gram).square(), self._first.shape[1] + 64)

    @property
    def sizes(self) -> list[int]:
        """Neurons of each hidden layer."""
        return [layer.weight.shape[1] for layer in self._layers]

    @torch.no_grad()
    def values(self, x: Tensor) -> list[Interval]:
        r"""Enclose the pre-activations of each activation at inputs (B, \*shape) float64: pairs of (B, n)."""
        found, values = {}, [(x, x)]
        for link in self._chain.links:
            if isinstance(link.operation, Elementwise):
                low, high = values[link.arguments[0]]
                found[link.arguments[0]] = (low.flatten(1), high.flatten(1))
            values.append(link.operation.interval(*(values[i] for i in link.arguments)))
        return [found[layer.source] for layer in self._layers]

    def __call__(
        self, values: Sequence[Interval], radius: Tensor, logs: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Bound Lip(f_i − f_j) in balls.

        Args:
            values: of the balls' centres, from :meth:`values`.
            radius: of each ball, (B,), at least 0.
            logs: of the multipliers of each hidden layer, (B, n). None: the closed form.

        Returns:
            The bounds, (B, C, C), differentiable in the logs, inf where the multipliers of an input are too small; and
            the logs.
        """
        gram, used = self._gram.expand(len(radius), -1, -1), []
        failed = torch.zeros(len(radius), dtype=torch.bool, device=radius.device)
        for place, layer in enumerate(self._layers):
            center, reach = self._slopes(layer, values[place], radius, gram)
            log = self._closed_form(place, gram, center, reach) if logs is None else logs[place]
            used.append(log)
            gram, wrong = _through(gram, layer.weight, center, reach, log.exp())
            failed = failed | wrong
        bounds = pair_bounds(gram) + self._lost
        return torch.where(failed[:, None, None] | bounds.isnan(), math.inf, bounds), used

    def _slopes(self, layer: _Layer, value: Interval, radius: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centres and radii of the neurons' slopes in each ball, (B, n); no gradient."""
        with torch.no_grad():
            reach = radius.unsqueeze(1) * (spread(gram)[:, : layer.width] + layer.lost) * UP
            ends = (value[0] - reach).reshape(-1, *layer.shape), (value[1] + reach).reshape(-1, *layer.shape)
            low, high = (end.flatten(1) for end in layer.activation.slopes_between(*ends))
            low, high = low.clamp_min(layer.activation.secants[0]), high.clamp_max(layer.activation.secants[1])
            center, half = (low + high) / 2, (high - low) / 2
            half = torch.where(high > low, half + 1e-15 * (low.abs() + high.abs()), 0)  # contains both slopes
            passed = layer.weight.shape[1] - layer.width  # values that bypass the activation
            return _padded(center, passed, 1.0), _padded(half, passed, 0.0)

    @torch.no_grad()
    def _closed_form(self, place: int, gram: Tensor, center: Tensor, reach: Tensor) -> Tensor:
        """Return logs of multipliers that are feasible but for rounding, (B, n)."""
        if place == 0:  # the same matrix for all inputs
            gram = self._gram
        diagonal = torch.diagonal(gram, dim1=1, dim2=2)
        shape = (diagonal + _SUSPECT * diagonal.mean(dim=1, keepdim=True) + UNDERFLOW).sqrt()
        root = shape.rsqrt()
        if place or self._top is None:
            balanced = gram * (root.unsqueeze(2) * root.unsqueeze(1))
            known = torch.isfinite(balanced).all(dim=(1, 2), keepdim=True)  # not so behind multipliers that failed
            top = torch.linalg.eigvalsh(torch.where(known, balanced, 0.0))[:, -1:].clamp_min(UNDERFLOW)
            self._top = top if place == 0 else self._top
        else:
            top = self._top
        skew = (center.abs() / reach.clamp_min(1e-6)).clamp(0.05, 1e3)
        multipliers: Tensor = (1 + 1e-9) * top * shape * (1 + skew)
        return multipliers.log()


def _padded(values: Tensor, count: int, value: float) -> Tensor:
    """Append ``count`` columns of one value to (B, n)."""
    padded: Tensor = torch.nn.functional.pad(values, (0, count), value=value)
    return padded


def _through(gram: Tensor, weight: Tensor, center: Tensor, reach: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return the joint matrices behind an activation and a weight, and for which inputs S − P is not positive."""
    count = gram.shape[-1]
    kappa = 16 * EPS * (count + 8) ** 2
    pivot = torch.diag_embed((1 - kappa) * s) - gram
    factor, info = torch.linalg.cholesky_ex(pivot)
    wrong = info != 0
    if bool(wrong.any()):  # an identity in their place keeps gradients finite
        factor = torch.where(wrong[:, None, None], torch.eye(count, dtype=factor.dtype, device=factor.device), factor)
    direct = weight * center.unsqueeze(1)  # (B, m, n)
    pushed = gram @ direct.mT
    solved = torch.linalg.solve_triangular(factor, pushed, upper=False)
    loose = weight * (reach * s.sqrt()).unsqueeze(1)
    result = direct @ pushed + solved.mT @ solved + loose @ loose.mT
    with torch.no_grad():
        far = (direct.abs() @ spread(gram).unsqueeze(2)).squeeze(2)
        slack = far.square() + solved.square().sum(dim=1) + loose.square().sum(dim=2)
    return raised(result, slack, 2 * count), wrong
