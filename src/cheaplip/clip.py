"""The penalty: λ times the largest quotient over the pairs, in a pass of its own or sharing the batch's."""

import math
import warnings
import weakref
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cheaplip.distributed import own, ranks, union
from cheaplip.errors import CheaplipWarning
from cheaplip.modes import (
    Model,
    check_independent_rows,
    dropout_off,
    has_dropout,
    refuse_batch_dependent_layers,
)
from cheaplip.operators import enrol, take_turn
from cheaplip.pairs import PairSet, checked_output
from cheaplip.quotient import Norm, at_least_float32, check_norm, column, distance, inverse_distance, quotient_and_slope

__all__ = ["CLIP", "Aggregate"]

Aggregate = Literal["max", "softmax", "mean"]

_PROBE = 1e-4  # share of λ at which a shared pass carries the gradients of pairs the penalty itself ignores
_TEMPERATURE = 0.2  # of the softmax over quotients, in units of the largest
_UNANSWERED = 20  # joint calls without a backward pass before we say so


class CLIP(nn.Module):
    r"""Penalty λ·Lip(f), with Lip(f) the largest difference quotient over a :class:`PairSet`.

    Two forms. ``clip(model)`` works with any model in any mode: the pairs have a pass of their own, in evaluation
    mode, so that dropout is off for them and batch-norm statistics never see them. ``clip.joint(model, x)`` is the
    cheap one: pairs and batch share one forward pass, and the pairs' gradients are read off the backward pass of your
    own loss. In train mode a call moves the pairs (``joint``: when ``loss.backward()`` runs); in eval mode it only
    measures. The model is never wrapped; its modes, ``requires_grad`` and ``.grad`` stay as they were.

    Both forms compile: ``torch.compile(step, fullgraph=True)`` of a step with the model, the loss and the penalty takes
    one graph, and with ``every`` above 1 a second one for the calls between. A compiled call of ``joint`` does not look
    whether a new model's rows are independent, nor warn of missing backward passes, and a model with active dropout
    gets the pass of its own.

    Under ``torch.distributed`` every rank holds pairs of its own, as many as the others, and the penalty is that of
    all of them: every rank makes the same calls, also to measure, and gradients are averaged over the ranks.

    Args:
        pairs: the Lipschitz training set.
        lam: λ ≥ 0, kept in the buffer ``lam`` for :class:`DiscrepancyPrinciple` to steer.
        aggregate: ``"max"``: the paper's largest quotient; ``"softmax"``: the smooth maximum
            T·log mean exp(L/T), whose gradient weighs pairs by softmax(L/T), with T a fifth of the largest quotient;
            ``"mean"``.
        every: regularise each ``every``-th call, at ``every`` times the weight; the calls between cost nothing. Pairs
            then climb √every times as far, and as many newcomers come as would have come in ``every`` calls.
        norm_in, norm_out: 1, 2, ``inf``, or a callable from differences (B, \*shape) to norms (B,).

    Attributes:
        largest: the largest quotient last seen, a scalar buffer; an estimate of Lip(f) from below.
        calls: how many there were in train mode.
        due: whether the next one regularises.

    Raises:
        ValueError: an option is out of range.

    Reference:
        Bungert et al. 2021, Algorithm 2. The shared pass answers the paper's remark that the backward pass for the
        parameters already holds what the pairs need (after Shafahi et al. 2019).

    Example:
        >>> import torch
        >>> x, y = torch.rand(64, 3), torch.randint(2, (64,))
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clip = CLIP(PairSet(x, size=8), lam=0.1)
        >>> for _ in range(3):
        ...     output, penalty = clip.joint(model, x)
        ...     loss = torch.nn.functional.cross_entropy(output, y) + penalty
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
    """

    lam: Tensor
    largest: Tensor
    _mark: Tensor

    def __init__(
        self,
        pairs: PairSet,
        lam: float = 0.1,
        *,
        aggregate: Aggregate = "softmax",
        every: int = 1,
        norm_in: Norm = 2,
        norm_out: Norm = 2,
    ) -> None:
        super().__init__()
        if not isinstance(pairs, PairSet):
            raise TypeError(f"pairs: expected a PairSet, got {type(pairs).__name__}: cheaplip.PairSet(x) makes one")
        if not (math.isfinite(lam) and lam >= 0):
            raise ValueError(f"lam: expected a finite number of at least 0, got {lam}")
        if aggregate not in get_args(Aggregate):
            raise ValueError(f"aggregate: expected one of {', '.join(get_args(Aggregate))}, got {aggregate!r}")
        if every < 1:
            raise ValueError(f"every: expected 1 or more, got {every}")
        self.pairs = pairs
        self.aggregate: Aggregate = aggregate
        self.every = every
        self.norm_in = check_norm(norm_in, "norm_in")
        self.norm_out = check_norm(norm_out, "norm_out")
        self.register_buffer("lam", torch.tensor(float(lam), dtype=pairs.u.dtype, device=pairs.u.device))
        self.register_buffer("largest", torch.zeros((), dtype=pairs.u.dtype, device=pairs.u.device))
        self.register_buffer("_mark", torch.zeros_like(self.largest), persistent=False)
        self._anchor = torch.zeros((), device=pairs.u.device, requires_grad=True)
        self._shape = pairs.u.shape[1:]  # kept for calls that are not due
        self.calls = 0
        self.due = True
        self._number = enrol(self)
        self._unanswered = 0
        self._checked: weakref.ref[object] | None = None

    def extra_repr(self) -> str:
        """The options, as given."""
        return f"aggregate={self.aggregate!r}, every={self.every}, norm_in={self.norm_in}, norm_out={self.norm_out}"

    def forward(self, model: Model) -> Tensor:
        """The penalty, from a pass of its own.

        In train mode the pairs first climb one step (two more passes over the pairs), then the penalty is taken at
        the new pairs, as in Algorithm 2.

        Args:
            model: one tensor in, (B, *input), one tensor out, (B, *output).

        Returns:
            Scalar, λ times the aggregate of the quotients, differentiable with respect to the model's parameters.
        """
        if self.training and not self._turn():
            return self.lam.new_zeros(())
        return self._separate(model)

    def _separate(self, model: Model) -> Tensor:
        if self.training:
            quotients = self.pairs.climb_(model, norm_in=self.norm_in, norm_out=self.norm_out, stride=self.every)
            self.pairs.renew_(quotients, stride=self.every)
        return self._penalty(union(self.pairs.quotients(model, norm_in=self.norm_in, norm_out=self.norm_out)))

    def joint(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The model's output for ``x`` and the penalty, from one shared pass.

        Under autocast the pairs have a float32 pass of their own all the same: differences of bfloat16 outputs would
        be mostly rounding. The penalty's gradient carries 1e-4·λ times the mean of all pairs' gradients besides its
        own, which is how pairs outside the aggregate climb.

        The pairs climb when you call ``backward()`` on a loss that contains both, and newcomers start at the batch's
        steepest inputs, which that pass knows as well.

        Args:
            model: as for ``clip(model)``, and the output for an input must not depend on the rest of the batch.
            x: (B, \*input), as the pairs in shape.

        Returns:
            The output, (B, \*output), and the penalty, a scalar.

        Raises:
            BatchDependentLayerError: a layer, named, mixes the inputs of a batch.
            ValueError: ``x`` is not of the pairs' shape.
        """
        if x.shape[1:] != self._shape:
            raise ValueError(f"x: expected inputs of shape {tuple(self._shape)} as the pairs, got {tuple(x.shape[1:])}")
        if self.training and not self._turn():
            return model(x), self.lam.new_zeros(())
        if not self.training or torch.is_autocast_enabled(x.device.type):
            return model(x), self._separate(model)
        if torch.compiler.is_compiling() and has_dropout(model):
            return model(x), self._separate(model)
        refuse_batch_dependent_layers(model)
        z, *messengers = _Together.apply(self._anchor, x, self)  # type: ignore[no-untyped-call]
        u, v = z.detach()[len(x) :].chunk(2)
        per_distance = inverse_distance(u, v, self.norm_in)  # now: a model may write into its input
        if torch.compiler.is_compiling():  # there is no active dropout then
            out = checked_output(model(z), len(z))
        else:
            self._check(model, z)
            with dropout_off(model, first=len(x), rows=len(z)):
                out = checked_output(model(z), len(z))
        with torch.no_grad():
            fu, fv = out[len(x) :].chunk(2)
            levels, rises = quotient_and_slope(fu, fv, per_distance, norm_out=self.norm_out)
            together = union(levels)
            penalty, weights = self._penalty(together), self._weights(together)
        output, penalty = _Apart.apply(out, penalty, levels, rises, weights, *messengers)  # type: ignore[no-untyped-call]
        return output, penalty

    def take_turn(self) -> None:
        """Count a call, and see whether the next is due."""
        state = self.__dict__  # past nn.Module's way to assign, which would be a good part of a call that is not due
        state["calls"] = calls = self.calls + 1
        state["due"] = calls % self.every == 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_checked": None}  # a weak reference travels nowhere

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = enrol(self)

    def get_extra_state(self) -> Tensor:
        """The number of calls, which decides when ``every`` is due."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of calls."""
        self.calls = int(state)
        self.due = self.calls % self.every == 0

    def _turn(self) -> bool:
        due = self.due  # all that a compiled step looks at, so there are two of them at most, due and not due
        if torch.compiler.is_compiling():
            take_turn(self._mark, self._number)
        else:
            self.take_turn()
        return due

    def _check(self, model: Model, z: Tensor) -> None:
        """Look at a model that is new, and warn if backward passes are missing."""
        known = self._checked is not None and (not isinstance(model, nn.Module) or self._checked() is model)
        if not known:  # once for each module, once for all functions, which may be new objects in each step
            check_independent_rows(model, z.detach())
            self._checked = weakref.ref(model)
        if not z.requires_grad:
            return
        self._unanswered += 1
        if self._unanswered == _UNANSWERED:
            warnings.warn(
                f"{_UNANSWERED} calls of clip.joint and no backward pass through the penalty, so pairs never moved: "
                "call loss.backward() on a loss that contains the penalty, or use clip(model)",
                CheaplipWarning,
                stacklevel=3,
            )

    def _penalty(self, quotients: Tensor) -> Tensor:
        """Of all ranks' quotients."""
        peak = quotients.detach().amax()
        self.largest.copy_(peak)
        weight = self._weight()
        if self.aggregate == "max":
            return weight * quotients.amax()
        if self.aggregate == "mean":
            return weight * quotients.mean()
        share = torch.sub(peak, peak, alpha=1 - _TEMPERATURE)  # _TEMPERATURE · peak, in one operation
        spread = ((quotients - peak) / share.clamp_min(torch.finfo(share.dtype).tiny)).exp().sum().log()
        level = weight * peak
        level = torch.sub(level, level, alpha=_TEMPERATURE * math.log(len(quotients)))
        return torch.addcmul(level, weight * share, spread)

    def _weights(self, quotients: Tensor) -> Tensor:
        """The penalty's derivatives with respect to this rank's quotients, of all ranks', and what makes all climb."""
        if self.aggregate == "max":
            chosen = (quotients == quotients.amax()).to(quotients)
            shares = chosen / chosen.sum()
        elif self.aggregate == "mean":
            shares = torch.full_like(quotients, 1 / len(quotients))
        else:
            temperature = _TEMPERATURE * quotients.amax()
            shares = (quotients / temperature.clamp_min(torch.finfo(quotients.dtype).tiny)).softmax(dim=0)
        least = self.lam.clamp_min(len(self.pairs) * torch.finfo(torch.float32).eps ** 2)
        return torch.add(own(shares) * (ranks() * self._weight()), least, alpha=_PROBE / len(self.pairs))

    def _weight(self) -> Tensor:
        return self.lam * self.every if self.training and self.every > 1 else self.lam

    @torch.no_grad()
    def _climb(self, x: Tensor, gradient: Tensor, slopes: Tensor | None, weights: Tensor, levels: Tensor) -> None:
        r"""Move the pairs, given the gradient with respect to a shared pass's inputs, and what its backward pass knows.

        Args:
            x: the batch, (B, \*input).
            gradient: (B + 2n, \*input).
            slopes: lengths of the loss's gradient with respect to the outputs, (B,).
            weights: of the quotients in the loss, (n,).
            levels: the quotients, (n,).
        """
        self.pairs.move_(levels, gradient[len(x) :], weights=weights, norm_in=self.norm_in, stride=self.every)
        pulls = gradient[: len(x)] if slopes is not None and len(x) > 0 else None
        self.pairs.renew_(levels, x, pulls, slopes, stride=self.every)


# What the pairs need is known at two places of the backward pass: slopes, weights and quotients at the outputs, the
# gradient at the inputs. The first three reach the last as gradients of tensors nobody looks into: plain autograd,
# without hooks or state, which a compiler can trace.


class _Together(torch.autograd.Function):
    r"""Batch and pairs, (B + 2n, \*input), and three messengers; in the backward pass, the pairs climb."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, x: Tensor, clip: CLIP) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``_anchor`` is a scalar that requires a gradient, and with it the result, whatever ``x`` does."""
        ctx.clip, ctx.answered = clip, False
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        u, v = clip.pairs.u, clip.pairs.v
        return (
            torch.cat([x, u.to(x.dtype), v.to(x.dtype)]),
            u.new_empty(len(x)),
            u.new_empty(len(u)),
            u.new_empty(len(u)),
        )

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, slopes: Tensor | None, weights: Tensor | None, levels: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        answered = gradient is None or weights is None or levels is None  # a backward pass that left the penalty out
        if not torch.compiler.is_compiling():  # one climb for each call, however often its graph is used
            answered, ctx.answered = answered or ctx.answered, not answered or ctx.answered
            ctx.clip._unanswered = ctx.clip._unanswered if answered else 0
        if not answered:
            ctx.clip._climb(x, gradient, slopes, weights, levels)
        own = gradient[: len(x)] if gradient is not None and ctx.needs_input_grad[1] else None
        return None, own, None


class _Apart(torch.autograd.Function):
    r"""The batch's output, (B, \*output), and the penalty, whose gradient at the pairs' outputs is known."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, penalty: Tensor, levels: Tensor, rises: Tensor, weights: Tensor, *_messengers: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""``rises``: of the quotients, with respect to f(u), (n, \*output)."""
        ctx.save_for_backward(levels, rises, weights)
        ctx.set_materialize_grads(False)
        output = out[: len(out) - 2 * len(levels)].clone()
        ctx.shape, ctx.dtype = output.shape, out.dtype
        return output, penalty.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, scale: Tensor | None) -> tuple[Tensor | None, ...]:
        levels, rises, weights = ctx.saved_tensors
        slopes = None if gradient is None else distance(at_least_float32(gradient))
        if gradient is None:  # the penalty alone
            gradient = rises.new_zeros(ctx.shape, dtype=ctx.dtype)
        if scale is None:  # the penalty left out
            nothing = gradient.new_zeros((2 * len(rises), *ctx.shape[1:]))
            return torch.cat([gradient, nothing]), *[None] * 4, slopes, None, None
        weights = weights * scale
        of_u = (rises * column(weights, rises)).to(ctx.dtype)
        return torch.cat([gradient, of_u, -of_u]), *[None] * 4, slopes, weights, levels
