"""Ranges of values and slopes: interval arithmetic through a chain, over single inputs or a whole domain."""

import math

import torch
from torch import Tensor

from cheaplip.domain import Ball, Box, Domain
from cheaplip.lipschitz.bounds.products import Norms
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Concatenation, Elementwise, Interval, LipschitzMap, RangedMap, Sum
from cheaplip.lipschitz.reading.operations.interval import norms_above
from cheaplip.lipschitz.rounding import EPS, UNDERFLOW, UP, product_up

__all__ = ["enclose", "output_interval", "slope_ranges"]

_ENTRIES = 1 << 22  # of the largest value of all inputs enclosed at once


@torch.no_grad()
def output_interval(chain: Chain, x: Tensor) -> Interval:
    r"""Enclose the exact outputs for inputs (B, \*shape) float64, each an interval of width 0 at the start.

    Made of plain tensor operations, without decisions that depend on the batch: torch.export can trace it.

    Returns:
        Values below and above the exact outputs, each (B, \*output) float64; infinite or NaN where an operation has no
        known enclosure.
    """
    last_use = chain.last_use
    boxes = {0: (x, x)}
    for at, link in enumerate(chain.links):
        whole = chain.whole(at)
        if whole is None:
            boxes[at + 1] = link.operation.interval(*(boxes[i] for i in link.arguments))
        else:
            boxes[at + 1] = whole[0].interval(boxes[whole[1]])
        for i in [i for i in boxes if last_use.get(i, at + 1) <= at]:
            del boxes[i]
    return boxes[len(chain.links)]


@torch.no_grad()
def enclose(chain: Chain, x: Tensor) -> Interval:
    r"""Enclose the exact outputs as :func:`output_interval` does, in batches that fit into memory, and never with NaN.

    Args:
        chain: the model.
        x: inputs, (B, \*shape) float64.

    Returns:
        Values below and above the exact outputs, each (B, \*output) float64; infinite where nothing is known.
    """
    count = max(1, _ENTRIES // max([1, *(math.prod(link.shape) for link in chain.links)]))
    if len(x) > count:
        parts = [enclose(chain, part) for part in torch.split(x, count)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    low, high = output_interval(chain, x)
    return torch.where(low.isnan(), -math.inf, low), torch.where(high.isnan(), math.inf, high)


@torch.no_grad()
def slope_ranges(
    chain: Chain, domain: Domain | None, *, norms: Norms | None = None
) -> dict[int, tuple[Tensor, Tensor]]:
    """Bound the slopes of every activation for inputs in a domain, by interval propagation.

    Each value is enclosed twice: in a box, and in the ball about the value of the domain's centre whose radius grows by
    each operation's spectral norm; both enclosures are used, and everything is rounded outwards.

    Args:
        chain: the model.
        domain: a box or a ball. None, or an unbounded box: no slope is bounded.
        norms: constants of the chain's operations that are known already.

    Returns:
        By index of the link: smallest and largest slope of each entry, of the link's shape, float64.

    Reference:
        Gowal et al. 2018, "On the effectiveness of interval bound propagation", section 3.
    """
    if domain is None:
        return {}
    norms = Norms() if norms is None else norms
    boxes: list[Interval] = [_input_box(chain, domain)]
    low, high = boxes[0]
    if not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
        return {}
    center = (low + high) / 2
    radius = norms_above(((high - low) / 2).flatten()) if isinstance(domain, Box) else domain.radius
    balls = [(center, float(radius) * UP + UNDERFLOW)]
    found: dict[int, tuple[Tensor, Tensor]] = {}
    shapes = chain.shapes
    for at, link in enumerate(chain.links):
        operation = link.operation
        arguments = [boxes[i] for i in link.arguments]
        reach = [balls[i][1] for i in link.arguments]
        box: Interval = operation.interval(*arguments)
        if (whole := chain.whole(at)) is not None:
            box = whole[0].interval(boxes[whole[1]])
        if not bool(torch.isfinite(box[0]).all() & torch.isfinite(box[1]).all()):
            return found  # nothing is known from here on
        around: Tensor | float
        if isinstance(operation, Elementwise):
            low, high = operation.activation.slopes_between(*arguments[0])
            found[at] = (low[0], high[0])
            around = outer = product_up(float(torch.maximum(low.abs(), high.abs()).max()), reach[0])
        elif isinstance(operation, RangedMap):
            found[at] = (
                torch.cat([low.flatten() for low, _ in arguments]),
                torch.cat([high.flatten() for _, high in arguments]),
            )
            constants = operation.lipschitz_within(2, arguments)
            around = outer = sum(product_up(c, r) for c, r in zip(constants, reach, strict=True))
        elif isinstance(operation, Sum):
            around = outer = sum(product_up(abs(f), r) for f, r in zip(operation.factors, reach, strict=True))
        elif isinstance(operation, Concatenation):
            around = outer = math.hypot(*reach)
        else:
            inner = shapes[link.arguments[0]]
            around = outer = product_up(norms(operation, 2, inner), reach[0])
            if not isinstance(operation, LipschitzMap):
                around = (operation.row_norms(inner) * reach[0]).clamp_max(outer)
        exact = operation.interval(*((balls[i][0], balls[i][0]) for i in link.arguments))
        center, rounding = (exact[0] + exact[1]) / 2, exact[1] - exact[0]
        boxes.append(_narrowed(box, center, (around + rounding) * UP + UNDERFLOW))
        balls.append((center, (outer + float(norms_above(rounding.flatten()))) * UP))
    return found


def _input_box(chain: Chain, domain: Domain) -> Interval:
    if isinstance(domain, Ball):
        center = domain.center.to(chain.device, torch.float64)[None]
        reach = domain.radius * UP + 4 * EPS * center.abs()
        return center - reach, center + reach
    low, high = domain.bounds(chain.device, torch.float64)
    return low.expand(1, *chain.shape), high.expand(1, *chain.shape)


def _narrowed(box: Interval, center: Tensor, reach: Tensor) -> Interval:
    """Return what lies in the box and within ``reach`` of ``center``."""
    if not bool(torch.isfinite(reach).all()):
        return box
    return torch.maximum(box[0], center - reach), torch.minimum(box[1], center + reach)
