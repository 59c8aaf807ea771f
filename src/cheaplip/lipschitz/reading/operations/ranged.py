"""Maps whose Lipschitz constant depends on where their arguments lie: products, normalisation, attention.

On all of space a product of two values has none. On a bounded domain, intervals of the arguments give one constant for
each of them: ‖x ⊙ y − x' ⊙ y'‖ ≤ sup |y| ‖x − x'‖ + sup |x| ‖y − y'‖.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.lipschitz.reading.operations.interval import Interval
from cheaplip.lipschitz.reading.operations.nonlinear import LipschitzMap
from cheaplip.lipschitz.rounding import EPS, UNDERFLOW, UP
from cheaplip.lipschitz.spectral import matrix_norm

__all__ = ["MATRIX_PRODUCT", "PRODUCT", "RangedMap", "attention", "normalisation"]

_BOUNDED = "on all of space it has no Lipschitz constant: give a bounded domain, such as domain=Box(0.0, 1.0)"
_RELATIVE = 1e-13  # error of a computed map in float64, relative to 1 + |value|


@dataclass(frozen=True, kw_only=True)
class RangedMap(LipschitzMap):
    """A map of one or more values whose constants depend on where these lie.

    Attributes:
        within: a function of the norm and of an interval for each argument, (1, …), to a constant for each argument.
        enclosure: the map of intervals, (B, …), rounded outwards.
    """

    within: Callable[[float, Sequence[Interval]], tuple[float, ...]]
    enclosure: Callable[..., Interval]

    def __call__(self, *x: Tensor) -> Tensor:
        return self.function(*x)

    def lipschitz_within(self, norm: float, arguments: Sequence[Interval]) -> tuple[float, ...]:
        """Return a constant for each argument: by how much the result moves with it, inside the intervals, at most."""
        anywhere = self.lipschitz(norm, tuple(arguments[0][0].shape[1:]))
        found = self.within(norm, arguments)
        return tuple(min(value, anywhere) if value == value else math.inf for value in found)  # NaN where a sum is

    def interval(self, *x: Interval) -> Interval:
        """Enclose the values."""
        return self.enclosure(*x)


def _size(x: Interval) -> Tensor:
    return torch.maximum(x[0].abs(), x[1].abs())


def _largest(x: Tensor) -> float:
    return float(x.max()) * UP


def _product_within(_: float, arguments: Sequence[Interval]) -> tuple[float, ...]:
    first, second = (_largest(_size(argument)) for argument in arguments)
    return second, first


def _product_interval(x: Interval, y: Interval) -> Interval:
    corners = torch.stack([a * b for a in x for b in y])
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    margin = 2 * EPS * torch.maximum(low.abs(), high.abs()) + UNDERFLOW
    return low - margin, high + margin


PRODUCT = RangedMap(
    torch.mul,
    {},
    f"the product of two values that depend on the input; {_BOUNDED}",
    within=_product_within,
    enclosure=_product_interval,
)


def _matrix_product_within(norm: float, arguments: Sequence[Interval]) -> tuple[float, ...]:
    """Bound ‖dX Y‖ and ‖X dY‖ by norms of the largest entries: ‖dX Y‖_F ≤ ‖dX‖_F ‖Y‖₂."""
    first, second = (_size(argument) for argument in arguments)
    if norm == 2:
        return float(matrix_norm(second)) * UP, float(matrix_norm(first)) * UP
    along = (-2, -1) if norm == math.inf else (-1, -2)
    return _largest(second.sum(dim=along[0])), _largest(first.sum(dim=along[1]))


def _matrix_product_interval(x: Interval, y: Interval) -> Interval:
    centres, radii = ([(high + sign * low) / 2 for low, high in (x, y)] for sign in (1, -1))
    sizes = [_size(part) for part in (x, y)]
    reach = sizes[0] @ radii[1] + radii[0] @ centres[1].abs()
    reach = reach + 4 * (x[0].shape[-1] + 8) * EPS * (sizes[0] @ sizes[1]) + UNDERFLOW
    middle = centres[0] @ centres[1]
    return middle - reach, middle + reach


MATRIX_PRODUCT = RangedMap(
    torch.matmul,
    {},
    f"the matrix product of two values that depend on the input; {_BOUNDED}",
    within=_matrix_product_within,
    enclosure=_matrix_product_interval,
)


def normalisation(groups: int, size: int, eps: float, kind: str, *, centred: bool = True) -> RangedMap:
    r"""Make x ↦ (x − mean) / √(variance + ε) within groups of n entries: layer, group, instance norm without weights.

    The Jacobian is r (C − x̂ x̂ᵀ / n), with r = 1/√(variance + ε), the centring C and the result x̂. As ‖x̂‖₂² ≤ n, its
    norm is at most r ≤ 1/√ε, which it has where all entries are the same. In the norms 1 and inf, ‖C‖ ≤ 2 and
    |x̂_i| Σ_j |x̂_j| / n ≤ √n.

    Args:
        groups: how many groups an input has; its entries are in order.
        size: n.
        eps: ε; with 0 there is no constant on all of space.
        kind: the name in messages.
        centred: subtract the mean; without it the map is RMS norm, x / √(mean of squares + ε).
    """
    outer = (2.0 if centred else 1.0) + math.sqrt(size)
    top = 1 / math.sqrt(eps) if eps > 0 else math.inf

    def function(x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], groups, size)
        grouped = grouped - grouped.mean(dim=2, keepdim=True) if centred else grouped
        return (grouped / torch.sqrt((grouped * grouped).mean(dim=2, keepdim=True) + eps)).reshape(x.shape)

    def steepest(x: Interval) -> Tensor:
        """Bound r in each group, (B, groups)."""
        low, high = (end.reshape(end.shape[0], groups, size) for end in x)
        if centred:  # two entries that are D apart contribute at least D²/2
            apart = (low.amax(dim=2) - high.amin(dim=2)).clamp_min(0.0)
            least = apart * apart / (2 * size)
        else:
            least = (torch.maximum(low, -high).clamp_min(0.0) ** 2).mean(dim=2)
        return UP / torch.sqrt(least.clamp_max(1e300) * (1 - 1e-12) + eps)

    def within(norm: float, arguments: Sequence[Interval]) -> tuple[float, ...]:
        return (_largest(steepest(arguments[0])) * (1.0 if norm == 2 else outer * UP),)

    def enclosure(x: Interval) -> Interval:
        low, high = x
        shape = (low.shape[0], groups, size)
        radius = ((high - low) / 2).reshape(shape)
        largest = _size(x).reshape(shape).amax(dim=2)
        moved = torch.sqrt((radius * radius).sum(dim=2)) + 8 * (size + 8) * math.sqrt(size) * EPS * largest
        reach = (steepest(x) * moved * UP + UNDERFLOW).unsqueeze(2).expand(shape).reshape(low.shape)
        middle = function((low + high) / 2)
        reach = reach + _RELATIVE * (1 + middle.abs())
        most = math.sqrt(size) * UP
        return (middle - reach).clamp_min(-most), (middle + reach).clamp_max(most)

    known = {2: top * UP, 1: top * outer * UP, math.inf: top * outer * UP}
    constants = {norm: (lambda _, value=value: value) for norm, value in known.items()} if eps > 0 else {}
    return RangedMap(function, constants, kind, within=within, enclosure=enclosure)


def attention(scale: float, mask: Callable[[], Tensor] | None) -> RangedMap:
    r"""Make softmax(scale · Q Kᵀ + mask) V, scaled dot-product attention, for Q (…, n, d), K (…, m, d), V (…, m, e).

    With weights p of one query, softmax has the Jacobian J = diag(p) − p pᵀ ≼ I/2, and Vᵀ J V is the covariance of the
    values under p, at most R² where R is the radius of a ball that holds all of them. So ‖Vᵀ J‖₂ ≤ R/√2, and

    .. math:: \|d\,out\| ≤ \tfrac{R}{\sqrt 2} s\, (\|K\|_2 \|dQ\| + \|Q\|_2 \|dK\|) + \sqrt n \|dV\|,

    as the n rows of weights have the sum 1. Only norm 2 is bounded.

    Args:
        scale: s.
        mask: gives what is added to the scores, or whether each score counts; None: all do.

    Reference:
        Kim, Papamakarios, Mnih 2021, "The Lipschitz constant of self-attention", section 3: none on all of space.
        Castin, Ablin, Peyré 2024, "How smooth is attention?", section 3: √n on bounded inputs. The constants here
        follow from the lines above.
    """

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = scale * (q @ k.transpose(-2, -1))
        if mask is not None:
            given = mask().to(q.device)
            scores = torch.where(given, scores, -math.inf) if given.dtype == torch.bool else scores + given.to(q.dtype)
        return torch.softmax(scores, dim=-1) @ v

    def spread(v: Interval) -> Tensor:
        """Bound R for each stack of values."""
        centre = ((v[0] + v[1]) / 2).mean(dim=-2, keepdim=True)
        far = torch.maximum((v[1] - centre).abs(), (v[0] - centre).abs())
        return torch.sqrt((far * far).sum(dim=-1)).amax(dim=-1) * UP + UNDERFLOW

    def within(norm: float, arguments: Sequence[Interval]) -> tuple[float, ...]:
        if norm != 2:
            return (math.inf,) * 3
        q, k, v = arguments
        factor = abs(scale) * _largest(spread(v)) / math.sqrt(2) * UP
        of_keys, of_queries = (float(matrix_norm(_size(part))) for part in (k, q))
        return factor * of_keys * UP, factor * of_queries * UP, math.sqrt(q[0].shape[-2]) * UP

    def enclosure(q: Interval, k: Interval, v: Interval) -> Interval:
        """Stay within the hull of the values, and near the result of the centres."""
        middle = function(*((low + high) / 2 for low, high in (q, k, v)))
        n, d = q[0].shape[-2:]
        m = k[0].shape[-2]
        gamma = 16 * (m + d + 8) * EPS  # rounding, as if it moved the arguments
        lengths = [torch.sqrt((_size(part) ** 2).sum(dim=(-2, -1))) for part in (q, k, v)]
        radii = [torch.sqrt((((high - low) / 2) ** 2).sum(dim=(-2, -1))) for low, high in (q, k, v)]
        moved = [radius + gamma * length for radius, length in zip(radii, lengths, strict=True)]
        factor = abs(scale) * spread(v) / math.sqrt(2)
        reach = factor * (lengths[1] * moved[0] + lengths[0] * moved[1]) + math.sqrt(n) * moved[2]
        reach = (reach * UP + UNDERFLOW)[..., None, None] + _RELATIVE * (1 + middle.abs())
        slack = gamma * _size(v).amax(dim=-2, keepdim=True) + UNDERFLOW
        low, high = v[0].amin(dim=-2, keepdim=True) - slack, v[1].amax(dim=-2, keepdim=True) + slack
        return torch.maximum(middle - reach, low), torch.minimum(middle + reach, high)

    kind = f"attention, in norm 2; {_BOUNDED}"
    return RangedMap(function, {}, kind, within=within, enclosure=enclosure)
