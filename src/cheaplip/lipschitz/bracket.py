"""The bracket lower ≤ Lip(f) ≤ upper: a quotient that was found, and a bound that is proved."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cheaplip.domain import Ball, Box, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.best import BOUNDS, Upper, pair_bounds, upper_bound
from cheaplip.lipschitz.bounds.ranges import enclose
from cheaplip.lipschitz.checks import check_model, input_shape, like_weights
from cheaplip.lipschitz.display import bracket_table, plot_bracket
from cheaplip.lipschitz.fingerprint import Fingerprint
from cheaplip.lipschitz.pair_bounds import PairBounds
from cheaplip.lipschitz.reading.chain import Chain, check_chain_norm
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.search.clever import Estimate, estimate_constant, near_inputs
from cheaplip.lipschitz.search.gradients import Flat, to_climb
from cheaplip.lipschitz.search.lower import check_budget, largest_quotient, proved_quotient
from cheaplip.lipschitz.search.switching import switches
from cheaplip.model import Model, without_inference_tensors

__all__ = ["ESTIMATES", "Bracket", "bracket", "pairwise"]

ESTIMATES = ("clever",)
"""Names of the methods of :func:`cheaplip.bracket` that estimate Lip(f), and prove no upper bound."""

_SECONDS = 20.0  # for the multipliers, where no limit is given
_STARTS = 1024  # inputs that the search starts from, where none are given
_VALUES = 1 << 22  # about the most activations, of all pairs at once
_CUT_OFF = (
    "the model's output does not depend differentiably on its input: look for torch.no_grad(), .detach() or integer "
    "operations inside the model"
)


_NO_BOUND = "clever estimates the constant, and proves no bound: leave the method out for one"


@dataclass(frozen=True)
class Bracket:
    r"""Both ends of a Lipschitz constant: lower ≤ Lip(f) ≤ upper.

    Attributes:
        lower: a quotient of the model, minus what rounding can have added; see ``lower_kind``.
        witness: the two inputs of that quotient, each (\*input), float64.
        upper: a proved bound; inf where nothing could be proved.
        method: the bound that ``upper`` is: one of :data:`cheaplip.lipschitz.bounds.best.BOUNDS`; "none" with inf.
        norm: of inputs and outputs.
        seconds: how long the computation took.
        reason: why ``upper`` is inf, or why a better method did not apply; may be empty.
        domain: where both ends hold. None: all of space.
        lower_kind: "proved": ``lower`` is below the exact quotient of the witness, by interval arithmetic. "estimate":
            the rounding error was estimated, because the model cannot be read or the intervals are too wide.
        fingerprint: what ``upper`` was proved for. Certificates refuse the bracket for another model, another domain or
            a smaller ``upper``. None with inf.
        estimate: what a method of :data:`ESTIMATES` makes of Lip(f), if it was asked for; ``upper`` is inf then. It
            proves nothing, and may lie on either side of the truth.
    """

    lower: float
    witness: tuple[Tensor, Tensor]
    upper: float
    method: str
    norm: float
    seconds: float
    reason: str = ""
    domain: Domain | None = None
    lower_kind: Literal["proved", "estimate"] = "estimate"
    fingerprint: Fingerprint | None = field(default=None, repr=False)
    estimate: Estimate | None = None

    @property
    def gap(self) -> float:
        """upper / lower: 1 when both ends meet."""
        if self.lower == 0:
            return 1.0 if self.upper == 0 else math.inf
        return self.upper / self.lower

    def __repr__(self) -> str:
        estimate = "" if self.estimate is None else f", estimate={self.estimate.value:.6g}"
        return f"Bracket(lower={self.lower:.6g}, upper={self.upper:.6g}, method={self.method!r}{estimate})"

    def _repr_html_(self) -> str:
        estimate = None if self.estimate is None else self.estimate.value
        return bracket_table(self.lower, self.upper, self.gap, self.norm, self.method, self.reason, estimate)

    def plot(self, ax: Any = None) -> Any:
        """Draw the bracket on axes of matplotlib, or on new ones, and return them."""
        return plot_bracket(self.lower, self.upper, ax)


def bracket(
    model: Model,
    domain: Domain | None = None,
    shape: tuple[int, ...] | None = None,
    norm: float = 2,
    *,
    x: Tensor | None = None,
    method: str | None = None,
    steps: int = 100,
    seconds: float | None = 30.0,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bracket:
    r"""Bracket the Lipschitz constant of a model, in evaluation mode: lower ≤ Lip(f) ≤ upper.

    Both ends are about the exact function that the model's weights define in real arithmetic. The upper end is rounded
    upwards and the lower one downwards, by interval arithmetic. Where that cannot be, in models that cannot be read or
    are very deep, the rounding error at the lower end is estimated, and ``lower_kind`` says so.

    Args:
        model: one tensor in, one tensor out. A plain function gets no upper bound.
        domain: where inputs live, such as ``Ball(x, r)``; in a bounded domain the upper bound is local. None: all of
            space.
        shape: of one input; may be left out with ``x`` or a ball.
        norm: of inputs and outputs: 2, 1 or inf.
        x: inputs that the search starts from, (B, \*shape). None: points of the domain.
        method: the upper bound to use, one of :data:`cheaplip.lipschitz.bounds.best.BOUNDS`. None: the best of the
            package's own. With "clever" there is none: ``upper`` is inf, and ``estimate`` is an estimate of Lip(f)
            from slopes at random inputs, near ``x`` if it is given.
        steps: of the search for the lower end, see :func:`cheaplip.lipschitz.largest_quotient`.
        seconds: for both ends, about: at most half for the upper end, at least half for the search; norms have
            no time limit. None: 20 for the multipliers, and no limit for the search.
        generator: source of the search's randomness. None: a new one with seed 0.
        progress: called with (steps done, steps in all) of the search.

    Returns:
        Both ends. ``upper`` is inf, with the reason, where nothing can be proved.

    Raises:
        TypeError: the inputs or the model are not floating-point.
        ValueError: an option, the shape, the device or the weights are not what is expected, or batch norm is in
            training mode.
        RuntimeError: both ends are proved, and lower > upper: an error of this package.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
        >>> b = bracket(model, shape=(2,))
        >>> b.lower <= b.upper
        True
    """
    started = time.monotonic()
    norm = check_chain_norm(norm)
    check_budget(steps, seconds)
    if method is not None and method not in (*BOUNDS, *ESTIMATES):
        raise ValueError(f"method: expected one of {', '.join((*BOUNDS, *ESTIMATES))}, got {method!r}")
    shape = input_shape(shape, domain, x)
    check_model(model, shape, x)
    model = without_inference_tensors(model)
    chain, reason = _chain(model, shape)
    starts = _starts(model, domain, shape, generator) if x is None else x
    climbed = to_climb(model, chain, starts[:2].to(like_weights(model, x).dtype))
    if isinstance(climbed, Flat) and chain is not None:
        chain, reason = None, _CUT_OFF
    estimate = None
    if method in ESTIMATES:
        upper = Upper(math.inf, "none", _NO_BOUND)
        source = torch.Generator().manual_seed(0) if generator is None else generator
        near = partial(_starts, model, domain, shape, source) if x is None else near_inputs(x, domain, source)
        if not isinstance(climbed, Flat):
            estimate = estimate_constant(climbed, near, norm=norm, seconds=None if seconds is None else seconds / 2)
    elif chain is None:
        upper = Upper(math.inf, "none", reason)
    else:
        upper = upper_bound(chain, norm, domain, method, seconds=_SECONDS if seconds is None else seconds / 2)
    exact = None if chain is None else partial(enclose, chain)
    if exact is not None and not bool(torch.isfinite(torch.cat(exact(starts[:1].double()))).all()):
        exact = None
    lower = largest_quotient(
        climbed,
        starts,
        domain=domain,
        size=_size(chain),
        steps=steps,
        seconds=None if seconds is None else max(seconds / 2, started + seconds - time.monotonic()),
        norm_in=norm,
        norm_out=norm,
        generator=generator,
        enclosure=exact,
        switches=None if chain is None else switches(chain, domain),
        progress=progress,
    )
    if lower.value > upper.value and lower.kind == "estimate":
        lower = proved_quotient(exact, lower, norm, norm)
    if not lower.value <= upper.value:
        raise RuntimeError(
            f"internal error: the quotient {lower.value!r} of two inputs is proved, and so is the smaller bound "
            f"{upper.value!r} ({upper.method}): expected lower <= upper, please report the model"
        )
    return Bracket(
        lower=lower.value,
        witness=lower.witness,
        upper=upper.value,
        method=upper.method,
        norm=norm,
        seconds=time.monotonic() - started,
        reason=upper.reason,
        domain=domain,
        lower_kind=lower.kind,
        fingerprint=None if chain is None else Fingerprint.of(chain, domain, norm, upper.value),
        estimate=estimate,
    )


def pairwise(
    model: nn.Module, domain: Domain | None = None, shape: tuple[int, ...] | None = None, *, seconds: float = 20.0
) -> PairBounds:
    r"""Bound Lip(f_i − f_j), 2 → 2, for every pair of outputs: how fast the margin between two classes can change.

    Args:
        model: one tensor (B, \*shape) in, (B, C) out.
        domain: where inputs live; in a bounded domain the bounds are local. None: all of space.
        shape: of one input; may be left out with a ball.
        seconds: for the optimisation, about.

    Returns:
        Upper bounds, (C, C) float64, symmetric, zeros on the diagonal. The tensor knows its model and its domain:
        certificates refuse it for another model or outside that domain.

    Raises:
        UnsupportedLayerError: the model cannot be read; names the layer.
        TypeError, ValueError: as in :func:`cheaplip.bracket`.

    Example:
        >>> import torch
        >>> swap = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.eye_(swap.weight)
        >>> round(float(pairwise(swap, shape=(2,))[0, 1]), 6)
        1.414214
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module, got {type(model).__name__}: a plain function cannot be read")
    shape = input_shape(shape, domain, None)
    check_model(model, shape, None)
    chain = read(model, shape)
    if len(chain.out_shape) != 1:
        raise ValueError(f"expected a model with outputs (B, C), got (B, {', '.join(map(str, chain.out_shape))})")
    bounds = pair_bounds(chain, domain, seconds=seconds)
    return PairBounds.of(bounds, Fingerprint.of(chain, domain, 2.0, float(bounds.max())), domain)


def _chain(model: Model, shape: tuple[int, ...]) -> tuple[Chain | None, str]:
    """Read the model; None, with the reason, if it cannot be read."""
    if not isinstance(model, nn.Module):
        return (
            None,
            f"a plain function ({getattr(model, '__name__', type(model).__name__)}) cannot be read: pass a module",
        )
    try:
        return read(model, shape), ""
    except UnsupportedLayerError as error:
        return None, str(error)


def _size(chain: Chain | None) -> int:
    """Return how many pairs the search has: fewer for larger models."""
    values = 0 if chain is None else sum(math.prod(link.shape) for link in chain.links)
    return 64 if chain is None else min(1024, max(8, _VALUES // max(1, values)))


def _starts(
    model: Model,
    domain: Domain | None,
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    count: int = _STARTS,
) -> Tensor:
    """Draw the inputs that the search starts from: uniform in a bounded domain, else of sizes from 1/30 to 30.

    A domain that is so wide that distances overflow counts as unbounded.
    """
    like = like_weights(model)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if domain is not None and domain.bounded and _reach(domain) ** 2 < torch.finfo(like.dtype).max / math.prod(shape):
        return domain.sample(count, shape, generator=generator, dtype=like.dtype).to(like.device)
    sizes = 10 ** (3 * torch.rand(count, generator=generator, dtype=like.dtype, device=generator.device) - 1.5)
    x = torch.randn(count, *shape, generator=generator, dtype=like.dtype, device=generator.device)
    x = (sizes.reshape(-1, *[1] * len(shape)) * x).to(like.device)
    return (Box() if domain is None else domain).project(x)


def _reach(domain: Domain) -> float:
    """Return a number that no entry of an input in a bounded domain exceeds in size; inf where its square overflows."""
    borders = (domain.center,) if isinstance(domain, Ball) else domain.bounds(torch.device("cpu"), torch.float64)
    reach = max(float(border.abs().max()) for border in borders) + (domain.radius if isinstance(domain, Ball) else 0.0)
    return reach if reach < 1e150 else math.inf
