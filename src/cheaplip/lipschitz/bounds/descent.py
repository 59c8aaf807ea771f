r"""Better multipliers by descent on log T, for networks of any size: L-BFGS, a few eliminations per iteration.

The largest eigenvalue of the last G has kinks, so Schatten norms (Σ λ_k^p)^{1/p} of G stand in for it, p rising from
2, where the problem is easy, to ∞. The gradient needs no backward pass through factorisations: by the envelope theorem,
the derivative with respect to T_i is −2 Σ_k (h_i − α_i z_i)(h_i − β_i z_i) over the worst increments (z, h) for the
eigenvectors of G, each weighted with λ_k^{p−1}.

Reference:
    Liu and Nocedal 1989; Lewis and Overton 2013, Nonsmooth optimization via quasi-Newton methods (the line search).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.elimination import Elimination
from cheaplip.lipschitz.rounding import NONZERO

__all__ = ["descend"]

_POWERS = (2.0, 8.0, 32.0, 128.0, 512.0, math.inf)
_MEMORY = 50  # pairs of differences that L-BFGS keeps
_PLATEAU = 20  # iterations over which too little progress ends the descent for one p


def descend(
    problem: Elimination, start: Sequence[Tensor], *, accuracy: float, deadline: float, iterations: int = 500
) -> list[Tensor]:
    """Improve multipliers by descent; return the best ones met, in the order of elimination.

    Args:
        problem: the network.
        start: feasible multipliers, in the order of elimination.
        accuracy: progress in log Lip over twenty iterations that is too little to go on.
        deadline: on the clock of ``time.monotonic()``.
        iterations: most iterations for each p.
    """
    sizes = [len(t) for t in start]
    logs = torch.cat([t.log() for t in start])
    best, best_value = logs, _evaluate(problem, sizes, math.inf, logs)[0]
    for p in _POWERS if problem.layers[-1].weight.shape[1] > 1 else (math.inf,):
        logs = _minimise(partial(_evaluate, problem, sizes, p), logs, accuracy, deadline, iterations)
        value = _evaluate(problem, sizes, math.inf, logs)[0]
        if value < best_value:
            best, best_value = logs, value
        if time.monotonic() > deadline:
            break
    return list(torch.split(best.exp(), sizes))


def _evaluate(problem: Elimination, sizes: list[int], p: float, logs: Tensor) -> tuple[float, Tensor]:
    """Compute ½ log of G's Schatten norm and its gradient in log T; inf where elimination fails."""
    eliminated = problem.run([x.exp() for x in torch.split(logs, sizes)])
    if len(eliminated) < len(sizes):
        return math.inf, logs
    eigenvalues, vectors = torch.linalg.eigh(eliminated[-1].gram)
    top = eigenvalues[-1].clamp_min(NONZERO)
    ratios = (eigenvalues / top).clamp_min(0)
    if p == math.inf:
        weights = (ratios >= 1).to(ratios) / top
        value = 0.5 * top.log()
    else:
        total = ratios.pow(p).sum()
        weights = ratios.pow(p - 1) / (total * top)
        value = 0.5 * (top.log() + total.log() / p)
    increments = vectors * weights.sqrt()
    gradients = []
    for done, x in zip(reversed(eliminated), reversed(torch.split(logs, sizes)), strict=True):
        z = done.layer.weight @ increments
        increments = done.respond(increments)
        low, high = done.layer.low.unsqueeze(1), done.layer.high.unsqueeze(1)
        gradients.append(-x.exp() * ((increments - low * z) * (increments - high * z)).sum(dim=1))
    return float(value), torch.cat(gradients[::-1])


def _minimise(
    function: Callable[[Tensor], tuple[float, Tensor]], x: Tensor, accuracy: float, deadline: float, iterations: int
) -> Tensor:
    """Minimise by L-BFGS, with a bisecting weak-Wolfe line search that copes with kinks and infinite values."""
    value, gradient = function(x)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_MEMORY)
    history = [value]
    for _ in range(iterations):
        direction = _direction(gradient, pairs)
        slope = float(direction @ gradient)
        if not slope < 0:
            break
        low, high = 0.0, math.inf
        length = min(1.0, 2 / float(direction.abs().max())) if pairs else 0.3 / float(gradient.abs().max())
        moved = None
        for _ in range(25):
            if time.monotonic() > deadline:
                return x
            new_value, new_gradient = function(x + length * direction)
            if not new_value <= value + 1e-4 * length * slope:
                high = length
            else:
                moved = (length, new_value, new_gradient)
                if float(new_gradient @ direction) >= 0.9 * slope:
                    break
                low = length
            length = (low + high) / 2 if high < math.inf else 2 * length
        if moved is None:
            break
        length, value, new_gradient = moved
        step, turn = length * direction, new_gradient - gradient
        if float(step @ turn) > 0:
            pairs.append((step, turn, 1 / (step @ turn)))
        x, gradient = x + step, new_gradient
        history.append(value)
        if len(history) > _PLATEAU and history[-_PLATEAU] - value < accuracy:
            break
    return x


def _direction(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Apply the inverse Hessian of L-BFGS to −gradient (two-loop recursion)."""
    q = -gradient
    weights = []
    for step, turn, inverse in reversed(pairs):
        weights.append(inverse * (step @ q))
        q = q - weights[-1] * turn
    if pairs:
        step, turn, _ = pairs[-1]
        q = q * ((step @ turn) / (turn @ turn))
    for (step, turn, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - inverse * (turn @ q)) * step
    return q
