"""Products of norms: the bound of a chain that multiplies the Lipschitz constants of its links."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.chain import Chain, Link, SlopeRanges
from cheaplip.lipschitz.reading.operations import (
    Concatenation,
    Convolution,
    Elementwise,
    LipschitzMap,
    Matrix,
    Nonnegative,
    RangedMap,
    Reshape,
    Scaling,
    Sum,
    TransposedConvolution,
    Weighted,
)
from cheaplip.lipschitz.rounding import EPS, LEAST, UNDERFLOW, UP, product_up

__all__ = [
    "Norms",
    "constants_within",
    "merging_error",
    "norm_product",
    "norm_product_to_train",
    "without_constant",
    "writing_error",
]


class Norms:
    """Lipschitz constants of operations, each computed once: those of large convolutions take seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float, tuple[int, ...]], tuple[Any, float]] = {}

    def __call__(self, operation: Any, norm: float, shape: tuple[int, ...]) -> float:
        """Return the Lipschitz constant of an operation for inputs of this shape."""
        key = (id(operation), norm, shape)
        if key not in self._known:  # the operation is kept alive, so that no other one gets its id
            known = operation.lipschitz(norm, shape) if _is_finite(operation) else math.inf
            self._known[key] = (operation, known)
        return self._known[key][1]


def norm_product(
    chain: Chain, norm: float = 2, ranges: SlopeRanges | None = None, *, norms: Norms | None = None
) -> float:
    """Bound the Lipschitz constant of a chain by products of its links' constants.

    A composition multiplies; a sum adds; a concatenation combines its parts in the norm. A residual block x + g(x) has
    1 + Lip(g) times the constant of what comes before it.

    Args:
        chain: the model.
        norm: 1, 2 or inf.
        ranges: slopes of activations, narrowed over a domain.
        norms: constants of the chain's operations that are known already.

    Returns:
        An upper bound of Lip(f), rounded upwards; inf where an operation has no known constant in this norm.
    """
    norms = Norms() if norms is None else norms

    def constant(at: int, link: Link, shape: tuple[int, ...]) -> float:
        if isinstance(link.operation, Elementwise) and ranges and at in ranges:
            return _steepest(ranges[at])
        return norms(link.operation, norm, shape)

    return float(_product(chain, norm, constant, ranges or {}))


def _steepest(slopes: tuple[Tensor, Tensor]) -> float:
    low, high = slopes
    return float(torch.maximum(low.abs(), high.abs()).max())


def merging_error(
    chain: Chain, norm: float = 2, ranges: SlopeRanges | None = None, *, norms: Norms | None = None
) -> float:
    """Bound how much rounding changes the Lipschitz constant of a chain when its matrices are multiplied in float64.

    An entry of A B is off by n ε (|A| |B|) at most, and ‖|A|‖₂² ≤ ‖A‖₁ ‖A‖_∞ (Schur's test). 0 where no two maps
    stand side by side, or none has negative entries. Where the links follow each other, each run of affine maps
    between two activations is off on its own: a run with norms of the product N and absolute norms of the product A
    becomes N + eA at most, and Π (N + eA) ≤ (1 + 2 Σ eA/N) Π N for Σ eA/N ≤ 1.

    Args:
        chain, norm, ranges, norms: as in :func:`norm_product`.
    """
    ranges, norms = ranges or {}, Norms() if norms is None else norms
    affine = longest = run = 0
    signed = False
    for link in chain.links:
        if isinstance(link.operation, Elementwise):
            run = 0
        elif not isinstance(link.operation, Reshape):
            affine, run = affine + 1, run + 1 + getattr(link.operation, "rounded", False)
            signed = signed or not isinstance(link.operation, Nonnegative)
            longest = max(longest, run)
    if longest <= 1 or not signed:
        return 0.0

    def constant(at: int, link: Link, shape: tuple[int, ...]) -> float:
        if isinstance(link.operation, Elementwise):
            return _steepest(ranges[at]) if at in ranges else norms(link.operation, 2, shape)
        if norm != 2:
            return norms(link.operation, norm, shape)
        one, most = (norms(link.operation, other, shape) for other in (1, math.inf))
        return product_up(math.sqrt(one) * UP, math.sqrt(most) * UP)

    size = max(map(math.prod, chain.shapes))
    absolute = float(_product(chain, norm, constant, ranges, with_wholes=False))
    together = product_up(4 * EPS * (affine + 1) * size, absolute)
    if any(link.arguments != (at,) for at, link in enumerate(chain.links)):
        return together
    shares: list[float] = []
    share, count = 1.0, 1
    for at, link in enumerate(chain.links):
        shape = chain.shapes[at]
        if isinstance(link.operation, Elementwise):
            shares.append(share * count)
            share, count = 1.0, 1
        else:
            own = norms(link.operation, norm, shape)
            share *= constant(at, link, shape) / own * UP if own > 0 else math.inf
            count += 1 + getattr(link.operation, "rounded", False)
    relative = 8 * EPS * size * sum([*shares, share * count]) * UP
    if not relative <= 1:
        return together
    whole = absolute if norm != 2 else norm_product(chain, norm, ranges, norms=norms)
    return min(together, product_up(2 * relative, whole))


def writing_error(
    chain: Chain, count: int, norm: float = 2, ranges: SlopeRanges | None = None, *, norms: Norms | None = None
) -> float:
    """Bound how much the Lipschitz constant of a chain may differ from that of the matrices it is written as.

    An entry of a matrix that stands for one layer is off by a few ε, as with a batch norm folded into it; one that
    stands for several by the rounding of their product.

    Args:
        chain, norm, ranges, norms: as in :func:`norm_product`.
        count: of the matrices.
    """
    norms = Norms() if norms is None else norms
    size = max(map(math.prod, chain.shapes))
    own = product_up(4 * EPS * count * size, norm_product(chain, norm, ranges, norms=norms))
    return own + merging_error(chain, norm, ranges, norms=norms)


def norm_product_to_train(chain: Chain) -> Tensor:
    """Compute :func:`norm_product` in norm 2 as a float64 scalar that is differentiable in the weights.

    The constants of registered layers have no gradient.
    """

    def constant(at: int, link: Link, shape: tuple[int, ...]) -> Tensor | float:  # noqa: ARG001
        if isinstance(link.operation, Matrix | Convolution | TransposedConvolution | Weighted | Scaling):
            return link.operation.spectral_norm(shape)
        assert not isinstance(link.operation, Sum | Concatenation)
        return link.operation.lipschitz(2, shape)

    return torch.as_tensor(_product(chain, 2, constant, {}), dtype=torch.float64, device=chain.device)


def without_constant(chain: Chain, norm: float, ranges: SlopeRanges | None = None) -> str:
    """Name the layers with no known constant in this norm, and why, for messages; empty where there are none.

    Args:
        chain: the model.
        norm: 1, 2 or inf.
        ranges: slopes of activations, narrowed over a domain.
    """
    found = []
    for at, link in enumerate(chain.links):
        operation = link.operation
        if isinstance(operation, RangedMap):
            if math.inf in constants_within(chain, at, norm, ranges or {}):
                found.append(f"{link.path!r} ({operation.kind})")
        elif isinstance(operation, LipschitzMap) and operation.lipschitz(norm, chain.shape) == math.inf:
            found.append(f"{link.path!r} ({operation.kind})")
        elif isinstance(operation, Elementwise):
            low, high = (ranges or {}).get(at) or operation.slopes(link.shape, chain.device)
            if not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
                found.append(f"{link.path!r} ({operation.activation.flaw})")
        elif not _is_finite(operation):
            found.append(f"{link.path!r} (its weight, computed in float64, is not finite)")
    return ", ".join(found)


def _is_finite(operation: Any) -> bool:
    """Return whether the weights of an operation, which a model may compute from others, are finite."""
    weight = getattr(operation, "weight", getattr(operation, "scale", None))
    return weight is None or bool(torch.isfinite(weight().detach()).all())


def _product(
    chain: Chain,
    norm: float,
    constant: Callable[[int, Link, tuple[int, ...]], Tensor | float],
    ranges: SlopeRanges,
    *,
    with_wholes: bool = True,
) -> Any:
    """Combine the constants of links that have one input, each given by its index and the shape of that input.

    Args:
        with_wholes: use what is known of several links together, too.
    """
    shapes = chain.shapes
    bounds: list[Any] = [1.0]
    for at, link in enumerate(chain.links):
        before = [bounds[i] for i in link.arguments]
        if isinstance(link.operation, Sum):
            bound = sum(_times(abs(f), b) for f, b in zip(link.operation.factors, before, strict=True))
        elif isinstance(link.operation, Concatenation):
            bound = _joined(before, norm)
        elif isinstance(link.operation, RangedMap):
            bound = sum(map(_times, constants_within(chain, at, norm, ranges), before))
        else:
            bound = _times(constant(at, link, shapes[link.arguments[0]]), before[0])
        if with_wholes and (whole := chain.whole(at)) is not None:
            together = _times(whole[0].lipschitz(norm, shapes[whole[1]]), bounds[whole[1]])
            bound = together if _number(together) < _number(bound) else bound
        bounds.append(bound * UP)
    return bounds[-1]


def constants_within(chain: Chain, at: int, norm: float, ranges: SlopeRanges) -> tuple[float, ...]:
    """Return a constant for each argument of a map whose constants depend on where they lie."""
    link, shapes = chain.links[at], [chain.shapes[i] for i in chain.links[at].arguments]
    assert isinstance(link.operation, RangedMap)
    if at not in ranges:
        return (link.operation.lipschitz(norm, shapes[0]),) * len(shapes)
    parts = (torch.split(end, [math.prod(shape) for shape in shapes]) for end in ranges[at])
    boxes = [(low.reshape(1, *s), high.reshape(1, *s)) for low, high, s in zip(*parts, shapes, strict=True)]
    return link.operation.lipschitz_within(norm, boxes)


def _times(a: Tensor | float, b: Tensor | float) -> Tensor | float:
    """Multiply two constants upwards, differentiably where one is a tensor; inf times 0 is inf, an unknown constant."""
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return product_up(a, b)
    value: Tensor = a * b  # type: ignore[assignment]
    exact = product_up(_number(a), _number(b))
    if exact in (0.0, math.inf) or exact > UNDERFLOW:
        return value if exact < math.inf else value.new_tensor(math.inf)
    return value + (exact - value.detach()).clamp_min(LEAST)


def _joined(constants: Sequence[Tensor | float], norm: float) -> Any:
    """Combine the constants of values that lie side by side."""
    if norm == math.inf:
        return max(constants)
    largest = max(map(_number, constants))
    if norm == 1 or largest in (0.0, math.inf):
        return sum(constants)
    if not any(isinstance(constant, Tensor) for constant in constants):
        return math.hypot(*map(_number, constants))
    return largest * sum((constant / largest) ** 2 for constant in constants) ** 0.5


def _number(constant: Tensor | float) -> float:
    return float(constant.detach()) if isinstance(constant, Tensor) else constant
