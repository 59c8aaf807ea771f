r"""The bound of a chain by forward elimination in Fourier space, and the search for its multipliers.

Every choice of positive multipliers gives a bound, so the search may stop at any time.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.lipschitz.bounds.fourier.gram import largest_eigenvalue, pair_bounds
from cheaplip.lipschitz.bounds.fourier.multipliers import InfeasibleError
from cheaplip.lipschitz.bounds.fourier.plan import Plan
from cheaplip.lipschitz.bounds.fourier.walk import OutOfTimeError, Walk
from cheaplip.lipschitz.reading.chain import Chain, SlopeRanges
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.rounding import NONZERO, above

__all__ = ["FourierBound"]

_STEPS, _LENGTH = 300, 0.1  # most steps, and the length of the first
_CLOSED_FORMS = ((0.5, 0.05), (0.5, 0.3), (0.0, 0.15), (1.0, 0.15))  # powers of the diagonal, and least x
_RATE = 1e10  # multiplications in a second
_LAST_POWER = 256.0  # of a Schatten norm, in multiples of the first one's, which is 2


class FourierBound:
    """A bound of Lip(f), 2 → 2, and the multipliers that prove it.

    Args:
        chain: the model.
        ranges: slopes of activations, narrowed over a domain.
    """

    def __init__(self, chain: Chain, ranges: SlopeRanges | None = None) -> None:
        self._chain, self._ranges = chain, ranges or {}
        self._plan = Plan(chain)

    def walk(
        self,
        choices: Sequence[Tensor] | None = None,
        *,
        form: tuple[float, float] = (0.5, 0.05),
        deadline: float = math.inf,
        known: dict[int, Any] | None = None,
    ) -> Walk:
        """Walk through the chain, with these choices or those of the closed form; see :class:`Walk`."""
        return Walk(self._chain, self._plan, self._ranges, choices, form=form, deadline=deadline, known=known)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._chain.device

    def shortest_time(self) -> float:
        """Estimate how many seconds one closed form takes."""
        return self._plan.work(self._chain) / _RATE

    @torch.no_grad()
    def closed_form(self, deadline: float = math.inf) -> tuple[float, list[Tensor]]:
        """Return the best bound of the closed forms, or of one if time is short; inf if there was none."""
        best: tuple[float, list[Tensor]] = (math.inf, [])
        started = time.monotonic()
        for form in _CLOSED_FORMS:
            if math.isfinite(best[0]) and 2 * (time.monotonic() - started) > deadline - started:
                break
            walk = self.walk(form=form, deadline=deadline if math.isfinite(best[0]) else math.inf)
            try:
                value = float(largest_eigenvalue(walk.run()).sqrt())
            except (InfeasibleError, OutOfTimeError):
                continue
            if value < best[0]:
                best = value, walk.choices
        return best

    @torch.no_grad()
    def certify(self, choices: Sequence[Tensor]) -> float:
        """Return the bound that these choices prove; inf if they prove none."""
        try:
            top = largest_eigenvalue(self.walk(choices).run())
        except InfeasibleError:
            return math.inf
        return math.sqrt(float(top)) * above(4) if bool(torch.isfinite(top)) else math.inf

    @torch.no_grad()
    def pairs(self, *, seconds: float) -> Tensor | None:
        """Bound Lip(f_i − f_j) for all pairs of outputs, (C, C); None where nothing could be proved in that time."""
        value, choices = self.optimise(seconds=seconds)
        if not math.isfinite(value):
            return None
        gram = self.walk(choices).run()
        if len(gram) > 1 or gram.shape[-1] != math.prod(self._chain.out_shape):
            return None  # the outputs are an image
        return pair_bounds(gram)[0]

    @torch.no_grad()
    def unrolled(self, choices: Sequence[Tensor], slopes: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return the multipliers of every neuron that the choices stand for, in the order of :meth:`Chain.dense`.

        Args:
            choices: those of a feasible walk.
            slopes: of the hidden layers that the chain is written as; the neurons of an activation come first.
        """
        walk = self.walk(choices)
        walk.run()
        bends = [at for at, link in enumerate(self._chain.links) if isinstance(link.operation, Elementwise)]
        found = []
        for at, (low, _) in zip(bends, slopes, strict=True):
            s = walk.multipliers[at]
            s = s.repeat_interleave(math.prod(self._chain.links[at].shape) // len(s))
            found.append(torch.cat([s, s.mean().expand(len(low) - len(s))]))
        return found

    def optimise(self, *, seconds: float) -> tuple[float, list[Tensor]]:
        """Look for the choices with the smallest bound, in about so many seconds; return the bound and the choices.

        The bound is inf, without choices, where there is not even time for a closed form.
        """
        deadline = time.monotonic() + seconds
        if self.shortest_time() > 1 + seconds:
            return math.inf, []
        value, choices = self.closed_form(deadline)
        if not choices or not math.isfinite(value):
            return value, choices
        found = self._descended(choices, deadline)
        better = self.certify(found)
        return (better, found) if better < value else (value, choices)

    def _descended(self, choices: list[Tensor], deadline: float) -> list[Tensor]:
        """Improve choices by Adam with falling steps.

        It descends on Schatten norms that come ever closer to the largest eigenvalue. Multipliers are taken relative to
        the smallest feasible ones, so that steps of any length remain feasible.
        """
        points = [nn.Parameter(choice.clone()) for choice in choices]
        optimizer = torch.optim.Adam(points, lr=_LENGTH, betas=(0.9, 0.99))
        known: dict[int, Any] = {}
        best, best_value, started = choices, math.inf, time.monotonic()
        for step in range(_STEPS):
            passed = max((time.monotonic() - started) / max(deadline - started, 1e-9), step / _STEPS)
            if passed >= 1:
                break
            value, top, gradients = self._value_and_gradient(points, 2.0 * _LAST_POWER**passed, known)
            if top < best_value:
                best, best_value = [point.detach().clone() for point in points], top
            if value == math.inf:  # for rounding, or the weight of a sum
                for point, other in zip(points, best, strict=True):
                    point.data.lerp_(other, 0.5)
                continue
            for point, gradient in zip(points, gradients, strict=True):
                point.grad = gradient
            optimizer.param_groups[0]["lr"] = _LENGTH * (1 - passed)
            optimizer.step()
        return best

    @torch.enable_grad()
    def _value_and_gradient(
        self, choices: Sequence[Tensor], p: float, known: dict[int, Any]
    ) -> tuple[float, float, list[Tensor]]:
        """Compute ½ log of the last matrix's Schatten norm, the same of its largest eigenvalue, and the gradient.

        Both are inf, without a gradient, where the choices prove nothing.
        """
        leaves = [choice.detach().requires_grad_() for choice in choices]
        try:
            gram = self.walk(leaves, known=known).run()
        except InfeasibleError:
            return math.inf, math.inf, []
        if not bool(torch.isfinite(gram).all()):
            return math.inf, math.inf, []
        eigenvalues = torch.linalg.eigvalsh(gram).flatten()
        top = eigenvalues.detach().max().clamp_min(NONZERO)
        value = 0.5 * (top.log() + (eigenvalues / top).clamp_min(0).pow(p).sum().log() / p)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            return math.inf, math.inf, []
        return float(value.detach()), 0.5 * math.log(float(top)), list(gradients)
