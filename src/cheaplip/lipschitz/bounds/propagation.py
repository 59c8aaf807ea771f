"""From a chain's operations to bounds: intervals of every value, and the product of norms."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cheaplip.domain import Ball, Box, Domain
from cheaplip.lipschitz.bounds.cuts import Ranges
from cheaplip.lipschitz.reading.chain import Chain, Step
from cheaplip.lipschitz.reading.operations import (
    Concatenation,
    Contraction,
    Convolution,
    Elementwise,
    Interval,
    Matrix,
    Scaling,
    Sum,
)

__all__ = ["Norms", "enclose", "norm_product", "norm_product_to_train", "slope_ranges", "without_constant"]

_UP = 1 + 1e-12
_ENTRIES = 1 << 22  # of the largest value of all inputs enclosed at once


class Norms:
    """Norms of operations, each computed once: those of large convolutions take seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float, tuple[tuple[int, ...], ...]], tuple[Any, float]] = {}

    def __call__(self, operation: Any, norm: float, shapes: tuple[tuple[int, ...], ...]) -> float:
        """Its Lipschitz constant for inputs of these shapes."""
        key = (id(operation), norm, shapes)
        if key not in self._known:
            self._known[key] = (
                operation,
                operation.lipschitz(norm, shapes),
            )  # kept alive, so that its id stays its own
        return self._known[key][1]


def norm_product(chain: Chain, norm: float = 2, ranges: Ranges | None = None, *, norms: Norms | None = None) -> float:
    """Lipschitz constant of each value with respect to the input, step by step; that of the output.

    A composition multiplies; a sum adds; parts side by side combine in the norm. A residual block x + g(x) gets
    1 + Lip(g) times the constant of what comes before.

    Args:
        chain: the model.
        norm: 1, 2 or inf.
        ranges: slopes narrowed over a domain.
        norms: those known of the chain's operations.

    Returns:
        An upper bound of Lip(f), rounded upwards; inf where an operation has no known constant in this norm.
    """
    norms = Norms() if norms is None else norms

    def constant(at: int, step: Step, shapes: tuple[tuple[int, ...], ...]) -> float:
        if isinstance(step.operation, Elementwise) and ranges and at in ranges:
            low, high = ranges[at]
            return float(torch.maximum(low.abs(), high.abs()).max())
        return norms(step.operation, norm, shapes)

    return float(_product(chain, norm, constant))


def norm_product_to_train(chain: Chain) -> Tensor:
    """As :func:`norm_product` in norm 2, a float64 scalar, differentiable in the weights.

    Constants that registered layers tell have no gradient.
    """

    def constant(at: int, step: Step, shapes: tuple[tuple[int, ...], ...]) -> Tensor | float:  # noqa: ARG001
        if isinstance(step.operation, Matrix | Convolution | Scaling):
            return step.operation.stretch(shapes[0])
        assert not isinstance(step.operation, Sum | Concatenation)
        return step.operation.lipschitz(2, shapes)

    return torch.as_tensor(_product(chain, 2, constant), dtype=torch.float64, device=chain.device)


def without_constant(chain: Chain, norm: float) -> str:
    """The layers with no known constant in this norm, for messages; empty where there are none."""
    return ", ".join(
        f"{step.path!r} ({step.operation.kind})"
        for step in chain.steps
        if isinstance(step.operation, Contraction) and step.operation.lipschitz(norm, (chain.shape,)) == math.inf
    )


def _product(
    chain: Chain, norm: float, constant: Callable[[int, Step, tuple[tuple[int, ...], ...]], Tensor | float]
) -> Any:
    """Of the constants of the steps that are neither sums nor concatenations, given their index and inputs' shapes."""
    shapes = [chain.shape, *(step.shape for step in chain.steps)]
    bounds: list[Any] = [1.0]
    for at, step in enumerate(chain.steps):
        before = [bounds[i] for i in step.arguments]
        if isinstance(step.operation, Sum):
            bound = sum(abs(f) * b for f, b in zip(step.operation.factors, before, strict=True))
        elif isinstance(step.operation, Concatenation):
            bound = max(before) if norm == math.inf else sum(b**norm for b in before) ** (1 / norm)
        else:
            bound = constant(at, step, tuple(shapes[i] for i in step.arguments)) * before[0]
        bounds.append(bound * _UP if bound == bound else math.inf)  # 0 times an unknown constant is unknown
    return bounds[-1]


@torch.no_grad()
def enclose(chain: Chain, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""What lies certainly below and above the exact outputs for inputs (B, \*shape) float64: intervals without width.

    Infinite where an operation has no known enclosure.
    """
    count = max(1, _ENTRIES // max([1, *(math.prod(step.shape) for step in chain.steps)]))
    if len(x) > count:
        parts = [enclose(chain, part) for part in torch.split(x, count)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    last_use = {i: at for at, step in enumerate(chain.steps) for i in step.arguments}
    boxes = {0: (x, x)}
    for at, step in enumerate(chain.steps):
        boxes[at + 1] = step.operation.interval(*(boxes[i] for i in step.arguments))
        for i in [i for i in boxes if last_use.get(i, at + 1) <= at]:
            del boxes[i]
    low, high = boxes[len(chain.steps)]
    return torch.where(low.isnan(), -math.inf, low), torch.where(high.isnan(), math.inf, high)


@torch.no_grad()
def slope_ranges(
    chain: Chain, domain: Domain | None, *, norms: Norms | None = None
) -> dict[int, tuple[Tensor, Tensor]]:
    """Slopes of every activation for inputs in a domain, by interval propagation; none for an unbounded domain.

    Each value is enclosed twice: in a box, and in the ball about the value of the domain's centre whose radius grows by
    each operation's spectral norm; both enclosures are used, and everything is rounded outwards.

    Args:
        chain: the model.
        domain: a box or a ball.
        norms: those known of the chain's operations.

    Returns:
        By index of the step: smallest and largest slope of each entry, of the step's shape, float64.

    Reference:
        Gowal et al. 2018, "On the effectiveness of interval bound propagation", section 3.
    """
    if domain is None or not domain.bounded:
        return {}
    norms = Norms() if norms is None else norms
    boxes: list[Interval] = [_input_box(chain, domain)]
    low, high = boxes[0]
    center = (low + high) / 2
    radius = torch.linalg.vector_norm((high - low) / 2) if isinstance(domain, Box) else domain.radius
    balls = [(center, float(radius) * _UP + 1e-300)]
    found: dict[int, tuple[Tensor, Tensor]] = {}
    shapes = [chain.shape, *(step.shape for step in chain.steps)]
    for at, step in enumerate(chain.steps):
        operation = step.operation
        arguments = [boxes[i] for i in step.arguments]
        reach = [balls[i][1] for i in step.arguments]
        box: Interval = operation.interval(*arguments)
        if not bool(torch.isfinite(box[0]).all() & torch.isfinite(box[1]).all()):
            return found  # nothing is known from here on
        around: Tensor | float
        if isinstance(operation, Elementwise):
            low, high = operation.activation.slopes_between(*arguments[0])
            found[at] = (low[0], high[0])
            around = outer = float(torch.maximum(low.abs(), high.abs()).max()) * reach[0]
        elif isinstance(operation, Sum):
            around = outer = sum(abs(f) * r for f, r in zip(operation.factors, reach, strict=True))
        elif isinstance(operation, Concatenation):
            around = outer = math.hypot(*reach)
        else:
            inner = shapes[step.arguments[0]]
            around = outer = norms(operation, 2, (inner,)) * reach[0]
            if not isinstance(operation, Contraction):
                around = (operation.row_norms(inner) * reach[0]).clamp_max(outer)
        exact = operation.interval(*((balls[i][0], balls[i][0]) for i in step.arguments))
        center, rounding = (exact[0] + exact[1]) / 2, exact[1] - exact[0]
        boxes.append(_narrowed(box, center, (around + rounding) * _UP))
        balls.append((center, (outer + float(torch.linalg.vector_norm(rounding))) * _UP))
    return found


def _input_box(chain: Chain, domain: Domain) -> Interval:
    if isinstance(domain, Ball):
        center = domain.center.to(chain.device, torch.float64)[None]
        reach = domain.radius * _UP + 4 * torch.finfo(torch.float64).eps * center.abs()
        return center - reach, center + reach
    low, high = domain.bounds(chain.device, torch.float64)
    return low.expand(1, *chain.shape), high.expand(1, *chain.shape)


def _narrowed(box: Interval, center: Tensor, reach: Tensor) -> Interval:
    """What lies in the box and within ``reach`` of ``center``."""
    if not bool(torch.isfinite(reach).all()):
        return box
    return torch.maximum(box[0], center - reach), torch.minimum(box[1], center + reach)
