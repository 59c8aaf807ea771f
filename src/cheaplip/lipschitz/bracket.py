"""The bracket lower ≤ Lip(f) ≤ upper: a quotient that was found, and a bound that is proved."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cheaplip.domain import Box, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.best import BOUNDS, Upper, pair_bounds, upper_bound
from cheaplip.lipschitz.bounds.ranges import enclose
from cheaplip.lipschitz.checks import check_model, input_shape, like_weights
from cheaplip.lipschitz.reading.chain import Chain, check_chain_norm
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.search.lower import check_budget, largest_quotient
from cheaplip.lipschitz.search.switching import switches
from cheaplip.model import Model

__all__ = ["Bracket", "bracket", "pairwise"]

_SECONDS = 20.0  # for the multipliers, where no limit is given
_STARTS = 1024  # inputs that the search starts from, where none are given
_VALUES = 1 << 22  # about the most activations, of all pairs at once


@dataclass(frozen=True)
class Bracket:
    r"""Both ends of a Lipschitz constant: lower ≤ Lip(f) ≤ upper.

    Attributes:
        lower: a quotient of the model, minus what rounding can have added.
        witness: the two inputs of that quotient, each (\*input), float64.
        upper: a proved bound; inf where nothing could be proved.
        method: the bound that ``upper`` is: one of :data:`cheaplip.lipschitz.bounds.best.BOUNDS`; "none" with inf.
        norm: of inputs and outputs.
        seconds: how long the computation took.
        reason: why ``upper`` is inf, or why a better method did not apply; may be empty.
        domain: where both ends hold. None: all of space.
    """

    lower: float
    witness: tuple[Tensor, Tensor]
    upper: float
    method: str
    norm: float
    seconds: float
    reason: str = ""
    domain: Domain | None = None

    @property
    def gap(self) -> float:
        """upper / lower: 1 when both ends meet."""
        if self.lower == 0:
            return 1.0 if self.upper == 0 else math.inf
        return self.upper / self.lower


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
    upwards and the lower one downwards, by interval arithmetic. In networks too deep for that, an estimate of the
    rounding error replaces it at the lower end.

    Args:
        model: one tensor in, one tensor out. A plain function gets no upper bound.
        domain: where inputs live, such as ``Ball(x, r)``; in a bounded domain the upper bound is local. None: all of
            space.
        shape: of one input; may be left out with ``x`` or a ball.
        norm: of inputs and outputs: 2, 1 or inf.
        x: inputs that the search starts from, (B, \*shape). None: points of the domain.
        method: the upper bound to use, one of :data:`cheaplip.lipschitz.bounds.best.BOUNDS`. None: the best of all.
        steps: of the search for the lower end, see :func:`cheaplip.lipschitz.largest_quotient`.
        seconds: for both ends, about: at most half for the multipliers of the upper end, at least half for the search;
            norms and regions have no time limit. None: 20 for the multipliers, and no limit for the search.
        generator: source of the search's randomness. None: a new one with seed 0.
        progress: called with (steps done, steps in all) of the search.

    Returns:
        Both ends. ``upper`` is inf, with the reason, where nothing can be proved.

    Raises:
        TypeError: the inputs or the model are not floating-point.
        ValueError: an option, the shape, the device or the weights are not what is expected, or batch norm is in
            training mode.

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
    if method is not None and method not in BOUNDS:
        raise ValueError(f"method: expected one of {', '.join(BOUNDS)}, got {method!r}")
    shape = input_shape(shape, domain, x)
    check_model(model, shape, x)
    chain, reason = _chain(model, shape)
    if chain is None:
        upper = Upper(math.inf, "none", reason)
    else:
        upper = upper_bound(chain, norm, domain, method, seconds=_SECONDS if seconds is None else seconds / 2)
    exact = None if chain is None else partial(enclose, chain)
    starts = _starts(model, domain, shape, generator) if x is None else x
    if exact is not None and not bool(torch.isfinite(torch.cat(exact(starts[:1].double()))).all()):
        exact = None
    lower = largest_quotient(
        model,
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
    assert lower.value <= upper.value, (
        f"internal error: the quotient {lower.value!r} of the witness is above the bound {upper.value!r} "
        f"({upper.method}): please report the model"
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
    )


def pairwise(
    model: nn.Module, domain: Domain | None = None, shape: tuple[int, ...] | None = None, *, seconds: float = 20.0
) -> Tensor:
    r"""Bound Lip(f_i − f_j), 2 → 2, for every pair of outputs: how fast the margin between two classes can change.

    Args:
        model: one tensor (B, \*shape) in, (B, C) out.
        domain: where inputs live; in a bounded domain the bounds are local. None: all of space.
        shape: of one input; may be left out with a ball.
        seconds: for the optimisation, about.

    Returns:
        Upper bounds, (C, C) float64, symmetric, zeros on the diagonal.

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
    return pair_bounds(chain, domain, seconds=seconds)


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


def _starts(model: Model, domain: Domain | None, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Draw the inputs that the search starts from: uniform in a bounded domain, else of sizes from 1/30 to 30."""
    like = like_weights(model)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if domain is not None and domain.bounded:
        return domain.sample(_STARTS, shape, generator=generator, dtype=like.dtype).to(like.device)
    sizes = 10 ** (3 * torch.rand(_STARTS, generator=generator, dtype=like.dtype, device=generator.device) - 1.5)
    x = torch.randn(_STARTS, *shape, generator=generator, dtype=like.dtype, device=generator.device)
    x = (sizes.reshape(-1, *[1] * len(shape)) * x).to(like.device)
    return (Box() if domain is None else domain).project(x)
