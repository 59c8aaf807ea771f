r"""CLEVER (Weng et al. 2018): what the slopes at random inputs suggest a Lipschitz constant, or a distance, to be.

The largest slopes of batches of random inputs follow a reverse Weibull law, whose end point estimates the largest slope
of all. An estimate may lie on either side of the truth: it is neither the lower nor the upper end of a bracket, and no
certificate is made from it.

Reference:
    Weng et al. 2018, Evaluating the robustness of neural networks: an extreme value theory approach, ICLR.
    Goodfellow 2018, Gradient masking causes CLEVER to overestimate adversarial perturbation size.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Ball, Box, Domain
from cheaplip.lipschitz.search.extremes import estimated_end
from cheaplip.model import Model, call_on_copy
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import distance

__all__ = ["Estimate", "clever_score", "estimate_constant", "near_inputs"]

_ENTRIES = 1 << 22  # of the Jacobians held at once
_PAIRS = 1000  # of inputs, whose distances are measured


class Estimate(NamedTuple):
    """An estimate of Lip(f), which proves nothing.

    Attributes:
        name: of the method, "clever".
        value: the estimate.
        largest: the largest slope that was met, which the estimate extrapolates.
    """

    name: str
    value: float
    largest: float


def estimate_constant(
    model: Model,
    draw: Callable[[int], Tensor],
    *,
    norm: float = 2,
    batches: int = 50,
    samples: int = 128,
    seconds: float | None = None,
) -> Estimate:
    r"""Estimate Lip(f) from the norms of Jacobians at random inputs.

    Args:
        model: one tensor in, one tensor out, differentiable.
        draw: gives so many random inputs, (samples, \*input).
        norm: of inputs and outputs: 2, 1 or inf.
        batches: whose largest slopes the law is fitted to.
        samples: inputs in a batch.
        seconds: after which no new batch is begun; there are at least three. None: no limit.

    Returns:
        The estimate; NaN where a slope is not finite.
    """
    started, maxima = time.monotonic(), []
    with evaluation_mode(model):
        for _ in range(batches):
            slopes = [_norms(rows, norm).max() for rows in _jacobians(model, draw(samples))]
            maxima.append(torch.stack(slopes).max())
            if seconds is not None and len(maxima) >= 3 and time.monotonic() - started > seconds:
                break
    values = torch.stack(maxima).double().cpu()
    if not bool(torch.isfinite(values).all()):
        return Estimate("clever", math.nan, math.nan)
    return Estimate("clever", estimated_end(values), float(values.max()))


def near_inputs(x: Tensor, domain: Domain | None, generator: torch.Generator) -> Callable[[int], Tensor]:
    r"""Make what draws inputs near those given: in balls whose radius is half the median distance between two of them.

    Args:
        x: inputs, (B, \*input), floating-point.
        domain: which the random inputs do not leave. None: all of space.
        generator: source of the random inputs.
    """
    x = x.detach()

    def pick(count: int) -> Tensor:
        return x[torch.randint(len(x), (count,), generator=generator, device=generator.device).to(x.device)]

    gaps = distance(pick(_PAIRS) - pick(_PAIRS))
    reach = float(gaps[gaps > 0].median()) / 2 if bool((gaps > 0).any()) else 1.0
    shape = tuple(x.shape[1:])
    ball = Ball(torch.zeros(shape), reach)

    def draw(count: int) -> Tensor:
        moved: Tensor = pick(count) + ball.sample(count, shape, generator=generator, dtype=x.dtype).to(x.device)
        return moved if domain is None else domain.project(moved)

    return draw


def clever_score(
    model: Model,
    x: Tensor,
    *,
    radius: float,
    domain: Box | None = None,
    norm: float = 2,
    batches: int = 50,
    samples: int = 128,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate how far the nearest input of another class is, for each input: the untargeted CLEVER score.

    .. math:: \min_{j ≠ c} \min\big(g_j(x) / L_j, R\big), \qquad g_j = f_c - f_j

    with c the predicted class and L_j the estimated largest gradient of g_j in the ball of radius R. **It is no
    certificate**: there may be a nearer input of another class, most of all where the model masks its gradients. For
    certificates, see :func:`cheaplip.certified_radius`.

    Args:
        model: from inputs (B, \*input) to logits (B, classes).
        x: inputs, (B, \*input).
        radius: R, positive, and the largest score.
        domain: which the random inputs do not leave. None: all of space.
        norm: of the distance, 2 or inf.
        batches: of random inputs in each ball.
        samples: inputs in a batch.
        generator: source of the random inputs. None: a new one with seed 0.

    Returns:
        The scores, (B,) float64.

    Raises:
        ValueError: the norm, the radius, or the outputs' shape is not what is expected.

    Reference:
        Weng et al. 2018, Algorithm 2.

    Example:
        >>> import torch
        >>> clever_score(torch.nn.Identity(), torch.tensor([[3.0, 1.0]]), radius=5.0)  # 2 / √2
        tensor([1.4142], dtype=torch.float64)
    """
    if norm not in (2, math.inf) or not 0 < radius < math.inf:
        raise ValueError(f"expected norm 2 or inf and a finite radius above 0, got {norm!r} and {radius!r}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    scores = []
    with evaluation_mode(model):
        with torch.no_grad():
            logits = call_on_copy(model, x)
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise ValueError(f"expected logits (B, classes), with two or more classes, got {tuple(logits.shape)}")
        for at, row in zip(x.detach(), logits, strict=True):
            top = int(row.argmax())
            others = torch.arange(len(row), device=row.device) != top
            maxima = []
            for _ in range(batches):
                near = _near(at, radius, norm, samples, generator, domain)
                slopes = [_margins(rows, top, norm).amax(dim=0) for rows in _jacobians(model, near)]
                maxima.append(torch.stack(slopes).amax(dim=0))
            steepest = torch.tensor([estimated_end(some) for some in torch.stack(maxima).cpu().T[others.cpu()]])
            leads = (row[top] - row[others]).double().cpu()
            scores.append((leads / steepest.double()).nan_to_num(math.inf).clamp(max=radius).min())
    return torch.stack(scores) if scores else torch.zeros(0, dtype=torch.float64)


def _near(
    at: Tensor, radius: float, norm: float, count: int, generator: torch.Generator, domain: Domain | None
) -> Tensor:
    """Draw inputs uniformly from the ball about one, and move them into the domain."""
    ball = Ball(torch.zeros(at.shape), radius) if norm == 2 else Box(-radius, radius)
    moved: Tensor = at + ball.sample(count, tuple(at.shape), generator=generator, dtype=at.dtype).to(at.device)
    return moved if domain is None else domain.project(moved)


def _jacobians(model: Model, x: Tensor) -> list[Tensor]:
    """Return the Jacobians at the inputs (B, \\*input), as chunks (b, outputs, inputs)."""
    with torch.no_grad():
        outputs = call_on_copy(model, x[:1]).numel()
    found = []
    for part in torch.split(x.detach(), max(1, _ENTRIES // max(1, outputs * x[0].numel()))):
        with torch.enable_grad():
            at = part.clone().requires_grad_()
            values = call_on_copy(model, at).flatten(1)
            rows = [torch.autograd.grad(value.sum(), at, retain_graph=True)[0].flatten(1) for value in values.T]
        found.append(torch.stack(rows, dim=1))
    return found


def _norms(jacobians: Tensor, norm: float) -> Tensor:
    """Return the operator norms of matrices (b, m, n); in norm 2 by the smaller Gram matrix."""
    if norm != 2:
        norms: Tensor = torch.linalg.matrix_norm(jacobians, norm)
        return norms
    wide = jacobians if jacobians.shape[1] <= jacobians.shape[2] else jacobians.mT
    largest: Tensor = torch.linalg.eigvalsh(wide @ wide.mT)[:, -1]
    return largest.clamp_min(0).sqrt()


def _margins(jacobians: Tensor, top: int, norm: float) -> Tensor:
    """Return the dual norms of the gradients of f_top − f_j, (b, classes)."""
    dual = 2 if norm == 2 else 1
    norms: Tensor = torch.linalg.vector_norm(jacobians[:, top : top + 1] - jacobians, dual, dim=2)
    return norms
