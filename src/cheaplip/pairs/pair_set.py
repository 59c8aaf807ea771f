"""The set itself: its pairs and their quotients, a climbing step, and the replacement of the weakest pairs.

The file is long because the documentation of the class is what users read about pairs.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.distributed import replace_, steepest, unwrapped, without_broadcast
from cheaplip.domain import Box, Domain
from cheaplip.model import Model, call_on_copy, checked_output
from cheaplip.modes import evaluation_mode
from cheaplip.operators import draw, enrol
from cheaplip.pairs.checks import check_inputs, check_options
from cheaplip.pairs.climbing import STEP_SIZES, Climb, gradient_step, power_step, quotient_step, within_distances
from cheaplip.pairs.drawing import Start, beside, data_scale, draw_integers, draw_normal, draw_pairs
from cheaplip.pairs.tournament import places, steepest_inputs, weakest
from cheaplip.quotient import TINY, Norm, column, distance, quotient

__all__ = ["PairSet"]


class PairSet(nn.Module):
    r"""A small set of input pairs (u, v) that climb towards the largest difference quotient of a model.

    The quotient of a pair is L = ‖f(u)−f(v)‖/‖u−v‖: how many times farther apart the outputs of the model f are than
    its inputs. The largest quotient of all pairs is an estimate of the model's Lipschitz constant, from below. Pass the
    set to :class:`CLIP`, which makes a penalty of it and moves the pairs while you train, or move them yourself:

        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> x = torch.rand(100, 3)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> pairs = PairSet(x, size=4, domain=Box(0.0, 1.0))  # four inputs, each with a noisy copy of it
        >>> pairs.u.shape
        torch.Size([4, 3])
        >>> before = pairs.quotients(model).mean()
        >>> for _ in range(10):
        ...     quotients = pairs.climb_(model)  # those before this step
        >>> bool(pairs.quotients(model).mean() > before)
        True

    Pairs that only climb end at the steepest places nearby. A network that is penalised there becomes flat there, and
    stays steep elsewhere. So the set is a *tournament*: after each training step, the ``renew`` pairs with the smallest
    quotients are replaced by newcomers, which start around fresh data. Only pairs that have climbed for ``grace`` steps
    can be replaced.

    ``step`` names how pairs climb:

    - ``"power"``: the direction u−v becomes the pulled-back output difference Jᵀ(f(u)−f(v)), as in a power iteration on
      the Jacobian J, while the midpoint takes a normalised gradient step. This reaches the steepest direction in a few
      steps.
    - ``"gradient"``: both ends take a normalised gradient step.
    - ``"quotient"``: the paper's Algorithm 1, u ← u + τ·L·∇ᵤL and v ← v + τ·L·∇ᵥL; the distance of the ends is left
      free.

    All state is in buffers, and the generator's state travels in ``state_dict()``; so ``.to()``, checkpoints and
    resuming work. The arithmetic takes place in at least float32, whatever the type of ``x``.

    Args:
        x: inputs, (B, \*input), floating point, any rank: where pairs start, and where newcomers come from when no
            batch is at hand. The set keeps a reference, which is not part of ``state_dict()``.
        size: number of pairs.
        domain: the :class:`Box` or :class:`Ball` inputs live in; pairs never leave it. None: all of space.
        start: where pairs start. ``"noise"``: at an input of ``x`` and a noisy copy of it (the paper's);
            ``"data"``: at two inputs of ``x``; ``"batch"``: at an input of ``x`` and its nearest neighbour in ``x``;
            ``"uniform"``: at a point drawn uniformly from ``domain`` and a noisy copy of it.
        step: how pairs climb, see above.
        step_size: τ, positive. For ``"power"`` and ``"gradient"`` in units of the data's scale, the median distance
            between two inputs of ``x``; for ``"quotient"`` the plain factor τ. None: 0.025, 0.02 and 1.
        distances: smallest and largest Euclidean distance within a pair, and that of newcomers, each in units of the
            data's scale. Only the newcomers' applies to ``step="quotient"``.
        renew: number of pairs replaced at each training step; 0 switches the tournament off.
        grace: training steps before a newcomer can be replaced.
        generator: the only source of randomness. None: a new one, with seed 0.

    Attributes:
        u, v: the ends of the pairs, (size, \*input) each.
        age: training steps each pair has climbed, (size,).
        scale: the data's scale, a scalar.
        pool: ``x``.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: an option is out of range, or ``x`` is empty, not finite or outside ``domain``.

    Reference:
        Bungert et al. 2021, Algorithm 1 (``step="quotient"``, ``renew=0``). The tournament, the power step and the
        distance bounds are ours.
    """

    u: Tensor
    v: Tensor
    age: Tensor
    scale: Tensor
    pool: Tensor

    def __init__(
        self,
        x: Tensor,
        *,
        size: int = 32,
        domain: Domain | None = None,
        start: Start = "noise",
        step: Climb = "power",
        step_size: float | None = None,
        distances: tuple[float, float, float] = (0.005, 0.3, 0.05),
        renew: int = 1,
        grace: int = 40,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_inputs(x)
        check_options(
            size=size, start=start, step=step, step_size=step_size, distances=distances, renew=renew, grace=grace
        )
        self.domain = Box() if domain is None else domain
        self.domain.check_shape(tuple(x.shape[1:]))
        if not self.domain.contains(x):
            raise ValueError(
                f"x has values from {x.min():g} to {x.max():g}, outside the domain {self.domain!r}: "
                "widen the domain, or normalise inside the model"
            )
        self.start: Start = start
        self.step: Climb = step
        self.step_size = STEP_SIZES[step] if step_size is None else step_size
        self.distances = distances
        self.renew = renew
        self.grace = grace
        self.generator = torch.Generator(x.device).manual_seed(0) if generator is None else generator
        self.register_buffer("pool", x.detach(), persistent=False)
        self.register_buffer("scale", data_scale(self.pool))
        u, v = self.draw(size)
        self.register_buffer("u", u)
        self.register_buffer("v", v)
        self.register_buffer("age", torch.zeros(size, dtype=torch.long, device=x.device))
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
        r"""Draw new pairs as at construction: both their ends, (count, \*input) each."""
        return draw_pairs(
            count,
            self.pool,
            self.start,
            domain=self.domain,
            apart=self.distances[2],
            scale=self.scale,
            generator=self.generator,
        )

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
        r"""Compute L of each pair, in a pass in evaluation mode and outside autocast.

        Args:
            model: one tensor in, one tensor out.
            ends: what :meth:`ends` returned, if gradients with respect to it are wanted. These gradients take the
                pairs' distances for constants.
            norm_in, norm_out: as in :func:`cheaplip.quotient.quotient`.

        Returns:
            (size,), differentiable with respect to the model's parameters.

        Raises:
            TypeError: the model returns no tensor.
            ValueError: the model does not return one output per input.
        """
        ends = self.ends() if ends is None else ends
        with evaluation_mode(model), without_broadcast(model), torch.autocast(ends.device.type, enabled=False):
            fu, fv = checked_output(call_on_copy(model, ends), len(ends)).chunk(2)
            u, v = ends.detach().chunk(2)
            return quotient(fu, fv, u, v, norm_in=norm_in, norm_out=norm_out)

    def climb_(self, model: Model, *, norm_in: Norm = 2, norm_out: Norm = 2, stride: int = 1) -> Tensor:
        """Let every pair climb one step, at the cost of one forward and one backward pass over the pairs.

        Args:
            model, norm_in, norm_out: as in :meth:`quotients`.
            stride: as in :meth:`move_`.

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
            if torch.compiler.is_compiling():  # a graph can hold vjp, but not autograd.grad
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
        r"""Let every pair climb one step along a gradient that a backward pass has computed.

        Args:
            quotients: L of each pair, (size,).
            gradient: of Σ weights·L with respect to :meth:`ends`, (2·size, \*input), the distances held constant.
            weights: one per pair, (size,), positive. None: ones.
            norm_in: the norm in the quotient's denominator.
            stride: training steps since the last call. The network has changed meanwhile, so pairs that keep a length
                (all but the paper's) climb √stride times as far.
        """
        pulls = gradient.to(self.u).reshape(2, *self.u.shape)
        if weights is not None:  # before any norm: the square of a small weight would be 0
            pulls = pulls / column(weights.to(self.u).clamp_min(TINY), self.u)
        pull_u, pull_v = pulls
        quotients = quotients.to(self.u)
        shortest, longest, _ = self.distances
        step_size = self.step_size * math.sqrt(stride)
        if self.step == "quotient":
            u, v = quotient_step(self.u, self.v, pull_u, pull_v, quotients, step_size=self.step_size, norm_in=norm_in)
        elif self.step == "power":
            u, v = power_step(self.u, self.v, pull_u, pull_v, step_size=step_size, scale=self.scale, norm_in=norm_in)
        else:
            u, v = gradient_step(
                self.u, self.v, pull_u, pull_v, quotients, step_size=step_size, scale=self.scale, norm_in=norm_in
            )
        u, v = self.domain.project(u), self.domain.project(v)
        if self.step != "quotient":
            # a pair that was projected has turned along the border, and may have become shorter
            u, v = within_distances(u, v, shortest, longest, self.scale)
            u, v = self.domain.project(u), self.domain.project(v)
        # Pairs stay where they are if their step is not finite, as after an overflow of the loss scale, or if a corner
        # of the domain would squeeze their ends together: the quotient of ends that nearly meet is rounding.
        least = 0.0 if self.step == "quotient" else shortest / 2
        length = distance(u - v, keepdim=True) / self.scale
        sound = length == length.clamp(least, torch.finfo(length.dtype).max)  # false for NaN
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
                slope, so newcomers start where it is largest, along the pull. None: they start at random inputs, in
                random directions.
            lengths: ‖r‖ of each, (k,). None: 1.
            stride: training steps since the last call, each of which would have replaced ``renew`` pairs; at most a
                quarter of the pairs are replaced at once.
        """
        count = places(len(self), self.renew, stride)
        if count == 0:
            return
        slots, free = weakest(quotients.to(self.u), self.age, self.grace, count)
        if inputs is None or self.start != "noise":
            u, v = draw(self.age, self.u, self._number, count) if torch.compiler.is_compiling() else self.draw(count)
        elif pulls is None:
            chosen = draw_integers(len(inputs), count, self.generator).to(inputs.device)
            u = self.domain.project(inputs[chosen].to(self.u))
            v = self._beside(u, draw_normal(u, self.generator))
        else:
            slopes, chosen = steepest_inputs(pulls, lengths, count)
            u = self.domain.project(inputs.index_select(0, chosen).to(self.u))
            v = self._beside(u, pulls.index_select(0, chosen).to(self.u))
            slopes, u, v = steepest(slopes.to(self.u), u, v, count)
            slots, free = slots[: len(u)], free[: len(u)] & (slopes > 0)
        for rows, newcomers in ((self.u, u), (self.v, v), (self.age, 0)):
            replace_(rows, slots, free, newcomers)

    def get_extra_state(self) -> Tensor:
        """The generator's state, so that a resumed run draws the same newcomers."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the generator's state."""
        self.generator.set_state(state.cpu())

    def _beside(self, u: Tensor, direction: Tensor) -> Tensor:
        """Other ends for newcomers that start at ``u``."""
        return beside(u, direction, domain=self.domain, apart=self.distances[2], scale=self.scale)
