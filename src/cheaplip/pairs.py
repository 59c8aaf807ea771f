"""The Lipschitz training set: input pairs that climb towards the largest difference quotient."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cheaplip.distributed import ranks, replace_, steepest, union, unwrapped, without_broadcast
from cheaplip.domain import Box, Domain
from cheaplip.modes import Model, evaluation_mode
from cheaplip.operators import draw, enrol
from cheaplip.quotient import Norm, at_least_float32, column, distance, quotient, slope

__all__ = ["PairSet", "Start", "Step", "checked_output"]

Start = Literal["noise", "data", "batch", "uniform"]
Step = Literal["power", "gradient", "quotient"]

_TINY = 1e-30
_FAINT = 1e-12  # of a direction: below the rounding of any other


class PairSet(nn.Module):
    r"""A small set of input pairs (u, v) that climb the quotient L = ‖f(u)−f(v)‖/‖u−v‖ of the model they are shown.

    The set is a *tournament*: every pair climbs at each step, and the ``renew`` weakest of those old enough to have
    had their chance (``grace`` climbs) make room for newcomers around fresh data. Without newcomers the network
    flattens the pairs it is shown and stays steep elsewhere.

    ``step`` names how pairs climb:

    - ``"power"``: the direction u−v becomes the pulled-back output difference Jᵀ(f(u)−f(v)), a power iteration on
      the Jacobian, while the midpoint takes a normalised gradient step; reaches the steepest direction in a few steps.
    - ``"gradient"``: both ends take a normalised gradient step.
    - ``"quotient"``: the paper's Algorithm 1, u ← u + τ·L·∇ᵤL and v ← v + τ·L·∇ᵥL, pair distance left free.

    All state is in buffers (and the generator's state travels in ``state_dict()``), so ``.to()``, checkpoints and
    resuming work. Arithmetic happens in at least float32, whatever the type of ``x``.

    Args:
        x: inputs, (B, \*input), floating point, any rank: where pairs start, and where newcomers come from when no
            batch is at hand. Kept by reference, not in ``state_dict()``.
        size: number of pairs.
        domain: the :class:`Box` inputs live in; pairs never leave it. None: all of space.
        start: ``"noise"``: an input of ``x`` and its noisy copy (the paper's); ``"data"``: two inputs of ``x``;
            ``"batch"``: an input of ``x`` and its nearest neighbour in ``x``; ``"uniform"``: a point drawn
            uniformly from ``domain``, and its noisy copy.
        step: how pairs climb, see above.
        step_size: τ, positive. For ``"power"`` and ``"gradient"`` in units of the data's scale, the median distance
            between two inputs of ``x``; for ``"quotient"`` the plain factor τ. None: 0.025, 0.02 and 1.
        distances: smallest and largest Euclidean distance within a pair, and that of newcomers, each in units of the
            data's scale. Only the newcomers' applies to ``step="quotient"``.
        renew: pairs replaced at each training step; 0 switches the tournament off.
        grace: training steps before a newcomer can be replaced.
        generator: the only source of randomness. None: a new one, with seed 0.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: an option is out of range, or ``x`` is empty, not finite or outside ``domain``.

    Reference:
        Bungert et al. 2021, Algorithm 1 (``step="quotient"``, ``renew=0``). The tournament, the power step and the
        distance bounds are ours.

    Example:
        >>> import torch
        >>> pairs = PairSet(torch.rand(100, 3), size=4, domain=Box(0.0, 1.0))
        >>> pairs.u.shape
        torch.Size([4, 3])
    """

    u: Tensor
    v: Tensor
    age: Tensor
    scale: Tensor
    pool: Tensor
    _lowest: Tensor
    _flat: Tensor
    _safe: Tensor
    _sides: Tensor

    def __init__(
        self,
        x: Tensor,
        *,
        size: int = 32,
        domain: Domain | None = None,
        start: Start = "noise",
        step: Step = "power",
        step_size: float | None = None,
        distances: tuple[float, float, float] = (0.005, 0.3, 0.05),
        renew: int = 1,
        grace: int = 40,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_inputs(x)
        _check_options(size, start, step, step_size, distances, renew, grace)
        self.domain = Box() if domain is None else domain
        self.domain.check_shape(tuple(x.shape[1:]))
        if not self.domain.contains(x):
            raise ValueError(
                f"x has values from {x.min():g} to {x.max():g}, outside the domain {self.domain!r}: "
                "widen the domain, or normalise inside the model"
            )
        self.start: Start = start
        self.step: Step = step
        self.step_size = {"power": 0.025, "gradient": 0.02, "quotient": 1.0}[step] if step_size is None else step_size
        self.distances = distances
        self.renew = renew
        self.grace = grace
        self.generator = torch.Generator(x.device).manual_seed(0) if generator is None else generator
        x = x.detach()
        self.register_buffer("pool", x, persistent=False)
        self.register_buffer("scale", _data_scale(x))
        sides = torch.stack([torch.ones_like(self.scale), -torch.ones_like(self.scale)])  # of a pair's centre
        self.register_buffer("_sides", sides.reshape(2, *[1] * x.dim()), persistent=False)
        u, v = self._draw(size, x)
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self.register_buffer("age", torch.zeros(size, dtype=torch.long, device=x.device))
        for name, value in (("_lowest", -1.0), ("_flat", 0.0), ("_safe", math.inf)):  # cheaper as tensors
            self.register_buffer(name, torch.full_like(self.scale, value), persistent=False)
        self._number = enrol(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = enrol(self)  # a copy draws for itself

    def __len__(self) -> int:
        return len(self.u)

    def extra_repr(self) -> str:
        """The options, as given."""
        return f"size={len(self)}, start={self.start!r}, step={self.step!r}, renew={self.renew}, grace={self.grace}"

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        r"""New pairs as at construction, (count, \*input) twice."""
        return self._draw(count, self.pool)

    @torch.no_grad()
    def redraw_(self) -> None:
        """Replace every pair by a new one, as at construction (the paper redraws once an epoch)."""
        u, v = self.draw(len(self))
        self.u.copy_(u)
        self.v.copy_(v)
        self.age.zero_()

    def ends(self) -> Tensor:
        r"""Both ends of every pair in the inputs' own type, (2·size, \*input): all u, then all v."""
        return torch.cat([self.u, self.v]).to(self.pool.dtype)

    def quotients(self, model: Model, *, ends: Tensor | None = None, norm_in: Norm = 2, norm_out: Norm = 2) -> Tensor:
        r"""L of each pair, from a pass in evaluation mode and outside autocast.

        Args:
            model: one tensor in, one tensor out.
            ends: what :meth:`ends` returned, if gradients with respect to it are wanted. They see the pairs'
                distances as constants.
            norm_in, norm_out: as in :func:`cheaplip.quotient.quotient`.

        Returns:
            (size,), differentiable with respect to the model's parameters.

        Raises:
            TypeError: the model returns no tensor.
            ValueError: the model does not return one output per input.
        """
        ends = self.ends() if ends is None else ends
        with evaluation_mode(model), without_broadcast(model), torch.autocast(ends.device.type, enabled=False):
            fu, fv = checked_output(model(ends), len(ends)).chunk(2)
            u, v = ends.detach().chunk(2)
            return quotient(fu, fv, u, v, norm_in=norm_in, norm_out=norm_out)

    def climb_(self, model: Model, *, norm_in: Norm = 2, norm_out: Norm = 2, stride: int = 1) -> Tensor:
        """Let every pair climb one step, at the cost of one forward and one backward pass over the pairs.

        Returns:
            L of each pair *before* the step, (size,).

        Raises:
            ValueError: the model's output does not depend differentiably on its input.
        """

        def total(ends: Tensor) -> "tuple[Tensor, Tensor]":  # in quotes: torch.compile of 2.6 reads it
            quotients = self.quotients(unwrapped(model), ends=ends, norm_in=norm_in, norm_out=norm_out)
            return quotients.sum(), quotients

        ends, gradient = self.ends(), None
        with torch.enable_grad(), torch.autocast(self.u.device.type, enabled=False):
            if torch.compiler.is_compiling():  # what a graph can hold
                value, pull, quotients = torch.func.vjp(total, ends, has_aux=True)  # type: ignore[misc]
                (gradient,) = pull(torch.ones_like(value))
            else:
                value, quotients = total(ends.requires_grad_())
                if value.requires_grad:
                    (gradient,) = torch.autograd.grad(value, ends, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "the model's output does not depend differentiably on its input, so pairs cannot climb: "
                "look for torch.no_grad(), .detach() or integer operations inside the model"
            )
        before: Tensor = quotients.detach()
        self.move_(before, gradient, norm_in=norm_in, stride=stride)
        return before

    @torch.no_grad()
    def move_(
        self,
        quotients: Tensor,
        gradient: Tensor,
        *,
        weights: Tensor | None = None,
        norm_in: Norm = 2,
        stride: int = 1,
    ) -> None:
        r"""Take one climbing step, given what a backward pass knows.

        Args:
            quotients: L of each pair, (size,).
            gradient: of Σ weights·L with respect to :meth:`ends`, (2·size, \*input), the distances held constant.
            weights: one per pair, (size,), positive; None: ones.
            norm_in: the norm in the quotient's denominator.
            stride: training steps since the last call. The network has moved on since, so pairs that keep a length
                (all but the paper's) climb √stride times as far.
        """
        pulls = gradient.to(self.u).reshape(2, *self.u.shape)
        if weights is not None:  # before any norm: the square of a small weight would be 0
            pulls = pulls / column(weights.to(self.u).clamp_min(_TINY), self.u)
        if self.step == "power":
            ends = self._power_step(pulls, norm_in, stride)
        else:
            ends = self._gradient_step(pulls, quotients, norm_in, stride)
        if self.step != "quotient":  # twice: the first projection turns a pair along the border, and may shorten it
            ends = self._keep_apart_(self._project(ends))
        u, v = self._project(ends)
        # An overflowing loss scale moves nothing (false for NaN); nor does a step that a corner of the box would
        # squeeze together: the quotient of ends that nearly meet is rounding.
        least = 0.0 if self.step == "quotient" else self.distances[0] / 2
        length = _length(u - v) / self.scale
        sound = length == length.clamp(least, torch.finfo(length.dtype).max)
        torch.where(sound, u, self.u, out=self.u)
        torch.where(sound, v, self.v, out=self.v)
        self.age.add_(stride)

    @torch.no_grad()
    def renew_(
        self,
        quotients: Tensor,
        inputs: Tensor | None = None,
        pulls: Tensor | None = None,
        lengths: Tensor | None = None,
        *,
        stride: int = 1,
    ) -> None:
        r"""Replace the ``renew`` weakest pairs, of all processes, that are at least ``grace`` steps old.

        Args:
            quotients: L of each pair, (size,).
            inputs: where newcomers may start, (k, \*input), k ≥ 1. None: they are drawn as at construction.
            pulls: J(x)ᵀr for ``inputs`` x and some vectors r, (k, \*input). ‖Jᵀr‖/‖r‖ is a lower bound of the model's
                slope, so newcomers start where it is largest, along the pull. None: at random inputs, in random
                directions.
            lengths: ‖r‖ of each, (k,). None: 1.
            stride: training steps since the last call, each of which would have replaced ``renew`` pairs; at most a
                quarter of the pairs are replaced at once.
        """
        size = len(self) * ranks()
        count = min(self.renew * stride, size if stride == 1 else max(self.renew, size // 4), size)
        if count == 0:
            return
        ready = self.age >= self.grace
        ranking = union(torch.where(ready, torch.fmax(quotients.to(self.u), self._lowest), self._safe))
        levels, weakest = ranking.topk(count, largest=False)
        leaves = levels < self._safe
        if inputs is None or self.start != "noise":
            u, v = draw(self.age, self.u, self._number, count) if torch.compiler.is_compiling() else self.draw(count)
        elif pulls is None:
            u = self.domain.project(inputs[self._integers(len(inputs), count)].to(self.u))
            v = self._beside(u, self._normal(u))
        else:
            slopes = distance(at_least_float32(pulls))
            slopes = slopes if lengths is None else slopes / lengths
            slopes = slopes.nan_to_num(-1.0, posinf=-1.0).to(self.u)
            slopes, chosen = slopes.topk(min(count, len(inputs)))
            u = self.domain.project(inputs.index_select(0, chosen).to(self.u))
            v = self._beside(u, pulls.index_select(0, chosen).to(self.u))
            slopes, u, v = steepest(slopes, u, v, count)
            weakest, leaves = weakest[: len(u)], leaves[: len(u)] & (slopes > self._flat)
        for rows, newcomers in ((self.u, u), (self.v, v), (self.age, 0)):
            replace_(rows, weakest, leaves, newcomers)

    def get_extra_state(self) -> Tensor:
        """The generator's state, so that a resumed run draws the same newcomers."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the generator's state."""
        self.generator.set_state(state.cpu())

    def _power_step(self, pulls: Tensor, norm_in: Norm, stride: int) -> Tensor:
        difference = self.u - self.v
        length = _length(difference)
        steepest, uphill = _dual(pulls[0] - pulls[1], norm_in), pulls[0] + pulls[1]
        if norm_in == 2:  # where there is no slope, a trace of the old direction remains, and so the old direction
            steepest.addcdiv_(difference, length.clamp_min(_TINY), value=_FAINT)
        else:
            steepest = torch.where(_length(steepest) == 0, difference, steepest)
        half = steepest.mul_(length / _length(steepest).clamp_min(_TINY))
        speed = self.scale / _length(uphill).clamp_min(_TINY)
        centre = torch.sub(self.u, difference, alpha=0.5, out=difference)
        centre.addcmul_(uphill, speed, value=self.step_size * math.sqrt(stride))
        return torch.addcmul(centre, self._sides, half, value=0.5)

    def _gradient_step(self, pulls: Tensor, quotients: Tensor, norm_in: Norm, stride: int) -> Tensor:
        difference = self.u - self.v
        run = column(distance(difference, norm_in).clamp_min(_TINY), difference)
        level = column(quotients.to(self.u), difference)
        shrink = level * slope(difference, norm_in) / run
        gradient = pulls - self._sides * shrink
        ends = torch.stack([self.u, self.v])
        if self.step == "quotient":
            return ends + self.step_size * level * gradient
        length = self.step_size * math.sqrt(stride) * self.scale
        return ends + length * slope(gradient.flatten(0, 1)).view_as(gradient)

    def _project(self, ends: Tensor) -> Tensor:
        """Both ends, (2, n, *input), to the domain."""
        return self.domain.project(ends.flatten(0, 1)).view_as(ends)

    def _keep_apart_(self, ends: Tensor) -> Tensor:
        """Stretch or shrink each pair about its midpoint to a distance within bounds."""
        difference = ends[0] - ends[1]
        length = (_length(difference) / self.scale).clamp_min(_TINY)
        excess = length.clamp(*self.distances[:2]) / length - 1
        return ends.addcmul_(self._sides, difference.mul_(excess), value=0.5)

    def _draw(self, count: int, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.start == "uniform":
            u = self.domain.sample(count, tuple(x.shape[1:]), generator=self.generator).to(at_least_float32(x[:1]))
            return u, self._beside(u, self._normal(u))
        chosen = self._integers(len(x), count)
        u = at_least_float32(x[chosen])
        if self.start == "noise" or len(x) == 1:
            return u, self._beside(u, self._normal(u))
        if self.start == "data":
            return u, at_least_float32(x[(chosen + 1 + self._integers(len(x) - 1, count)) % len(x)])
        others = at_least_float32(x[self._integers(len(x), min(len(x), _SAMPLE))])
        flat, flat_others = u.reshape(count, -1), others.reshape(len(others), -1)
        gaps = torch.cdist(flat, flat_others, compute_mode="donot_use_mm_for_euclid_dist")
        return u, others[torch.where(gaps > 0, gaps, math.inf).argmin(dim=1)]

    def _beside(self, u: Tensor, direction: Tensor) -> Tensor:
        """Points of the domain in the given direction, or in the opposite one where the border is nearer."""
        direction = direction * (self.scale / _length(direction).clamp_min(_TINY))
        if self.domain.everywhere:
            return torch.add(u, direction, alpha=self.distances[2])
        both = self._project(torch.addcmul(u, self._sides, direction, value=self.distances[2]))
        near, far = _length((both - u).flatten(0, 1)).chunk(2)
        # where both are as far, rounding must not decide: processes, and devices, would go different ways
        return torch.where(near < torch.sub(far, far, alpha=1e-3), both[1], both[0])

    def _normal(self, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=self.generator, device=self.generator.device, dtype=like.dtype)
        return noise.to(like.device)

    def _integers(self, high: int, count: int) -> Tensor:
        drawn = torch.randint(high, (count,), generator=self.generator, device=self.generator.device)
        return drawn.to(self.pool.device)


_SAMPLE = 256  # inputs looked at for the data's scale and for nearest neighbours


def _data_scale(x: Tensor) -> Tensor:
    """Median distance between two different inputs, from at most 256 of them; 1 where there are none."""
    some = at_least_float32(x[torch.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).long().to(x.device)])
    gaps = torch.pdist(some.reshape(len(some), -1))
    gaps = gaps[gaps > 0]
    return gaps.median() if len(gaps) else torch.ones((), dtype=some.dtype, device=x.device)


def checked_output(out: object, rows: int) -> Tensor:
    """Return a model's output if it is one tensor with a row for each input; raise otherwise."""
    if not isinstance(out, Tensor):
        raise TypeError(
            f"expected a model with one tensor out, got {type(out).__name__}: "
            "wrap it in a module whose forward returns the tensor that matters"
        )
    if out.dim() == 0 or len(out) != rows:
        raise ValueError(f"expected one output per input, ({rows}, *output), got shape {tuple(out.shape)}")
    return out


def _length(x: Tensor) -> Tensor:
    """Euclidean norm of each element of the batch, as a column, (B, 1, …, 1)."""
    if x.dim() == 1:
        return x.abs()
    lengths: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)
    return lengths


def _dual(pull: Tensor, norm: Norm) -> Tensor:
    """The direction e, of any length, that maximises <pull, e> / norm(e); for a callable norm, pull itself."""
    if norm == math.inf:
        return pull.sign()
    if norm == 1:
        flat = pull.reshape(len(pull), -1)
        largest = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).reshape(pull.shape)
    return pull


def _check_inputs(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor of inputs (B, *input), got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"x: expected floating-point inputs, got {x.dtype}: pairs move continuously, so convert the inputs "
            "(x.float()), or for tokens pass their embeddings"
        )
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x: expected a batch of at least one input, got shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite inputs, got NaN or Inf: clean the data first")


def _check_options(
    size: int,
    start: str,
    step: str,
    step_size: float | None,
    distances: tuple[float, float, float],
    renew: int,
    grace: int,
) -> None:
    if size < 1:
        raise ValueError(f"size: expected at least one pair, got {size}")
    for name, value, kinds in (("start", start, get_args(Start)), ("step", step, get_args(Step))):
        if value not in kinds:
            raise ValueError(f"{name}: expected one of {', '.join(kinds)}, got {value!r}")
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size: expected a positive number, got {step_size}")
    if len(distances) != 3 or not 0 < distances[0] <= distances[2] <= distances[1] < math.inf:
        raise ValueError(
            "distances: expected (smallest, largest, newcomers') with "
            f"0 < smallest <= newcomers' <= largest, got {distances}"
        )
    for name, count in (("renew", renew), ("grace", grace)):
        if count < 0:
            raise ValueError(f"{name}: expected 0 or more, got {count}")
