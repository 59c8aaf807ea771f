r"""The bound of a chain by forward elimination in Fourier space, and the search for its multipliers.

Every choice of positive multipliers gives a bound, so the search may stop at any time. It is the one of
:mod:`cheaplip.lipschitz.bounds.descent`, on the logs of the multipliers, with gradients by automatic differentiation,
followed by steps of Adam.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cheaplip.lipschitz.bounds.descent import minimise
from cheaplip.lipschitz.bounds.fourier.gram import largest_eigenvalue, pair_bounds
from cheaplip.lipschitz.bounds.fourier.plan import Plan
from cheaplip.lipschitz.bounds.fourier.walk import InfeasibleError, OutOfTimeError, Walk
from cheaplip.lipschitz.reading.chain import Chain, SlopeRanges
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.rounding import NONZERO, above

__all__ = ["FourierBound"]

_SHARE = 0.4  # of the time, for steps of Adam
_STEPS, _PLATEAU, _LENGTH = 3000, 100, 0.05  # of these: most, those that must make progress, and the first one's length
_RATE = 1e10  # multiplications in a second
_POWERS = (2.0, 8.0, 32.0, 128.0, math.inf)


class FourierBound:
    """A bound of Lip(f), 2 → 2, and the multipliers that prove it.

    Args:
        chain: the model.
        ranges: slopes of activations, narrowed over a domain.
    """

    def __init__(self, chain: Chain, ranges: SlopeRanges | None = None) -> None:
        self._chain, self._ranges = chain, ranges or {}
        self._plan = Plan(chain)

    def walk(self, choices: Sequence[Tensor] | None = None, *, power: float = 0.5, deadline: float = math.inf) -> Walk:
        """Walk through the chain, with these choices or those of the closed form."""
        return Walk(self._chain, self._plan, self._ranges, choices, power=power, deadline=deadline)

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
        for power in (0.5, 0.0, 1.0):
            if math.isfinite(best[0]) and 2 * (time.monotonic() - started) > deadline - started:
                break
            walk = self.walk(power=power, deadline=deadline if math.isfinite(best[0]) else math.inf)
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

    def optimise(self, *, seconds: float, accuracy: float = 1e-4) -> tuple[float, list[Tensor]]:
        """Look for the choices with the smallest bound, in about so many seconds; return the bound and the choices.

        The bound is inf, without choices, where there is not even time for a closed form.
        """
        deadline = time.monotonic() + seconds
        if self.shortest_time() > 1 + seconds:
            return math.inf, []
        value, choices = self.closed_form(deadline)
        if not choices or not math.isfinite(value):
            return value, choices
        shapes = [choice.shape for choice in choices]
        sizes = [choice.numel() for choice in choices]

        def parted(flat: Tensor) -> list[Tensor]:
            pieces = torch.split(flat, sizes)
            return [piece.reshape(shape).to(self._chain.device) for piece, shape in zip(pieces, shapes, strict=True)]

        def evaluate(x: Tensor, p: float) -> tuple[float, Tensor]:
            return self._value_and_gradient(parted(x), p)

        flat = torch.cat([choice.flatten() for choice in choices]).cpu()
        best, best_value = flat, value
        for p in _POWERS:
            flat = minimise(partial(evaluate, p=p), flat, accuracy, deadline - _SHARE * seconds, 500)
            found = self.certify(parted(flat))
            if found < best_value:
                best, best_value = flat, found
            if time.monotonic() > deadline - _SHARE * seconds:
                break
        best = _descended(partial(evaluate, p=math.inf), best, accuracy, deadline)
        return self.certify(parted(best)), parted(best)

    @torch.enable_grad()
    def _value_and_gradient(self, choices: Sequence[Tensor], p: float) -> tuple[float, Tensor]:
        """Compute ½ log of the last matrix's Schatten norm, and its gradient."""
        leaves = [choice.detach().requires_grad_() for choice in choices]
        zeros = torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.float64)
        try:
            gram = self.walk(leaves).run()
        except InfeasibleError:
            return math.inf, zeros
        if not bool(torch.isfinite(torch.view_as_real(gram) if gram.is_complex() else gram).all()):
            return math.inf, zeros
        eigenvalues = torch.linalg.eigvalsh(gram).flatten()
        top = eigenvalues.detach().max().clamp_min(NONZERO)
        if p == math.inf:
            value = 0.5 * eigenvalues.max().clamp_min(NONZERO).log()
        else:
            value = 0.5 * (top.log() + (eigenvalues / top).clamp_min(0).pow(p).sum().log() / p)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        flat = [
            (torch.zeros_like(leaf) if gradient is None else gradient).flatten().cpu()
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ]
        return float(value.detach()), torch.cat(flat)


def _descended(
    function: Callable[[Tensor], tuple[float, Tensor]], x: Tensor, accuracy: float, deadline: float
) -> Tensor:
    """Improve a point by Adam with falling steps: kinks, as of largest eigenvalues, stop a line search early."""
    best, best_value = x, math.inf
    point = nn.Parameter(x.clone())
    optimizer = torch.optim.Adam([point], lr=_LENGTH, betas=(0.9, 0.99))
    started, marked = time.monotonic(), math.inf
    for step in range(1, _STEPS + 1):
        passed = max((time.monotonic() - started) / max(deadline - started, 1e-9), step / _STEPS)
        if passed >= 1:
            break
        value, gradient = function(point.detach())
        if value < best_value:
            best, best_value = point.detach().clone(), value
        if step % _PLATEAU == 0:
            if marked - best_value < accuracy:
                break
            marked = best_value
        if value == math.inf:
            point.data.lerp_(best, 0.5)
            continue
        optimizer.param_groups[0]["lr"] = _LENGTH * (1 - passed)
        point.grad = gradient
        optimizer.step()
    return best
