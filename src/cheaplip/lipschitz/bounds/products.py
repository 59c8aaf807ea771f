"""Products of norms: the bound of a chain that multiplies the Lipschitz constants of its links."""

import math
from collections.abc import Callable
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
    Scaling,
    Sum,
)
from cheaplip.lipschitz.rounding import UP

__all__ = ["Norms", "norm_product", "norm_product_to_train", "without_constant"]


class Norms:
    """Lipschitz constants of operations, each computed once: those of large convolutions take seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float, tuple[int, ...]], tuple[Any, float]] = {}

    def __call__(self, operation: Any, norm: float, shape: tuple[int, ...]) -> float:
        """Return the Lipschitz constant of an operation for inputs of this shape."""
        key = (id(operation), norm, shape)
        if key not in self._known:  # the operation is kept alive, so that no other one gets its id
            self._known[key] = (operation, operation.lipschitz(norm, shape))
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
            low, high = ranges[at]
            return float(torch.maximum(low.abs(), high.abs()).max())
        return norms(link.operation, norm, shape)

    return float(_product(chain, norm, constant))


def norm_product_to_train(chain: Chain) -> Tensor:
    """Compute :func:`norm_product` in norm 2 as a float64 scalar that is differentiable in the weights.

    The constants of registered layers have no gradient.
    """

    def constant(at: int, link: Link, shape: tuple[int, ...]) -> Tensor | float:  # noqa: ARG001
        if isinstance(link.operation, Matrix | Convolution | Scaling):
            return link.operation.spectral_norm(shape)
        assert not isinstance(link.operation, Sum | Concatenation)
        return link.operation.lipschitz(2, shape)

    return torch.as_tensor(_product(chain, 2, constant), dtype=torch.float64, device=chain.device)


def without_constant(chain: Chain, norm: float) -> str:
    """Name the layers with no known constant in this norm, for messages; empty where there are none."""
    return ", ".join(
        f"{link.path!r} ({link.operation.kind})"
        for link in chain.links
        if isinstance(link.operation, LipschitzMap) and link.operation.lipschitz(norm, chain.shape) == math.inf
    )


def _product(chain: Chain, norm: float, constant: Callable[[int, Link, tuple[int, ...]], Tensor | float]) -> Any:
    """Combine the constants of links that have one input, each given by its index and the shape of that input."""
    shapes = chain.shapes
    bounds: list[Any] = [1.0]
    for at, link in enumerate(chain.links):
        before = [bounds[i] for i in link.arguments]
        if isinstance(link.operation, Sum):
            bound = sum(abs(f) * b for f, b in zip(link.operation.factors, before, strict=True))
        elif isinstance(link.operation, Concatenation):
            bound = max(before) if norm == math.inf else sum(b**norm for b in before) ** (1 / norm)
        else:
            bound = constant(at, link, shapes[link.arguments[0]]) * before[0]
        bounds.append(bound * UP if bound == bound else math.inf)  # NaN: 0 times an unknown constant is unknown
    return bounds[-1]
