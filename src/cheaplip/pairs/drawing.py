"""How new pairs are drawn: from which inputs, in which direction, and how far apart their ends are."""

import math
from typing import Literal

import torch
from torch import Tensor

from cheaplip.domain import Domain
from cheaplip.quotient import TINY, at_least_float32, distance

__all__ = ["Start", "beside", "data_scale", "draw_integers", "draw_normal", "draw_pairs"]

Start = Literal["noise", "data", "batch", "uniform"]
"""Where pairs start; :class:`PairSet` explains each."""

_SAMPLE = 256  # inputs looked at for the data's scale and for nearest neighbours


def draw_pairs(
    count: int,
    x: Tensor,
    start: Start,
    *,
    domain: Domain,
    apart: float,
    scale: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    r"""Draw new pairs.

    Args:
        count: how many.
        x: inputs, (B, \*input).
        start: where pairs start.
        domain: where both ends lie.
        apart: distance between an input and its noisy copy, in units of ``scale``.
        scale: of the data, a scalar.
        generator: the only source of randomness.

    Returns:
        Both ends of the pairs, (count, \*input) each, in at least float32.
    """

    def with_noisy_copy(u: Tensor) -> tuple[Tensor, Tensor]:
        return u, beside(u, draw_normal(u, generator), domain=domain, apart=apart, scale=scale)

    def draw_rows(high: int, count: int) -> Tensor:
        return draw_integers(high, count, generator).to(x.device)

    if start == "uniform":
        u = domain.sample(count, tuple(x.shape[1:]), generator=generator)
        return with_noisy_copy(u.to(at_least_float32(x[:1])))
    chosen = draw_rows(len(x), count)
    u = at_least_float32(x[chosen])
    if start == "noise" or len(x) == 1:
        return with_noisy_copy(u)
    if start == "data":
        return u, at_least_float32(x[(chosen + 1 + draw_rows(len(x) - 1, count)) % len(x)])
    others = at_least_float32(x[draw_rows(len(x), min(len(x), _SAMPLE))])
    gaps = torch.cdist(
        u.reshape(count, -1), others.reshape(len(others), -1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return u, others[torch.where(gaps > 0, gaps, math.inf).argmin(dim=1)]


def beside(u: Tensor, direction: Tensor, *, domain: Domain, apart: float, scale: Tensor) -> Tensor:
    r"""Points of the domain at the distance ``apart`` · ``scale`` from ``u`` (n, \*input).

    They lie in the given direction, (n, \*input), or in the opposite one where the border of the domain is nearer.
    """
    direction = direction * (scale / distance(direction, keepdim=True).clamp_min(TINY))
    ahead = torch.add(u, direction, alpha=apart)
    if domain.everywhere:
        return ahead
    ahead, behind = domain.project(ahead), domain.project(torch.sub(u, direction, alpha=apart))
    near, far = distance(ahead - u, keepdim=True), distance(behind - u, keepdim=True)
    # Where both are as far, rounding must not decide: processes, and devices, would go different ways.
    return torch.where(near < 0.999 * far, behind, ahead)


def draw_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers of the shape, type and device of ``like``."""
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)


def draw_integers(high: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` integers in [0, high), on the generator's device."""
    return torch.randint(high, (count,), generator=generator, device=generator.device)


def data_scale(x: Tensor) -> Tensor:
    """Median distance between two different inputs, from at most 256 of them; 1 where there are none."""
    some = at_least_float32(x[torch.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).long().to(x.device)])
    gaps = torch.pdist(some.reshape(len(some), -1))
    gaps = gaps[gaps > 0]
    return gaps.median() if len(gaps) else torch.ones((), dtype=some.dtype, device=x.device)
