"""The penalty: λ times the largest quotient over the pairs, in a pass of its own or sharing the batch's."""

import math
import warnings
import weakref
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cheaplip.distributed import union
from cheaplip.errors import CheaplipWarning
from cheaplip.modes import (
    Model,
    check_independent_rows,
    dropout_off,
    refuse_batch_dependent_layers,
)
from cheaplip.pairs import PairSet, checked_output
from cheaplip.quotient import Norm, at_least_float32, check_norm, distance, quotient

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
        self._calls = 0
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
        if self.training:
            if not self._due():
                return self.lam.new_zeros(())
            quotients = self.pairs.climb_(model, norm_in=self.norm_in, norm_out=self.norm_out, stride=self.every)
            self.pairs.renew_(quotients, stride=self.every)
        return self._penalty(self.pairs.quotients(model, norm_in=self.norm_in, norm_out=self.norm_out))

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
        if x.shape[1:] != self.pairs.u.shape[1:]:
            raise ValueError(
                f"x: expected inputs of shape {tuple(self.pairs.u.shape[1:])} as the pairs, got {tuple(x.shape[1:])}"
            )
        if not self.training or torch.is_autocast_enabled(x.device.type):
            return model(x), self(model)
        if not self._due():
            return model(x), self.lam.new_zeros(())
        ends = self.pairs.ends().to(x.dtype)
        z = leaf = torch.cat([x, ends])
        if x.requires_grad:  # then z is no leaf, but a leaf of zeros gets the same gradient
            leaf = torch.zeros_like(z)
            z = z + leaf.requires_grad_()
        leaf.requires_grad_()
        refuse_batch_dependent_layers(model)
        known = self._checked is not None and (not isinstance(model, nn.Module) or self._checked() is model)
        if not known:  # once for each module, once for all functions, which may be new objects in each step
            check_independent_rows(model, z.detach())
            self._checked = weakref.ref(model)
        with dropout_off(model, first=len(x), rows=len(z)):
            out = checked_output(model(z), len(z))
        output = out[: len(x)]
        fu, fv = out[len(x) :].chunk(2)
        u, v = ends.chunk(2)
        quotients = quotient(fu, fv, u, v, norm_in=self.norm_in, norm_out=self.norm_out)
        if not quotients.requires_grad:
            return output, self._penalty(quotients)
        # Leaves that the backward pass leaves gradients in; holding the graph's own tensors would be a cycle.
        weights = torch.ones_like(quotients).requires_grad_()
        upstream = torch.zeros_like(output).requires_grad_()
        self._climb_after_backward(leaf, x.detach(), ends, quotients.detach(), weights, upstream)
        quotients = quotients * weights
        penalty = self._penalty(quotients)
        probe = _PROBE * (self.lam.detach() / len(quotients) + torch.finfo(torch.float32).eps ** 2)
        return output + upstream, penalty + probe * (quotients.sum() - quotients.sum().detach())

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_checked": None}  # a weak reference travels nowhere

    def get_extra_state(self) -> Tensor:
        """The number of calls, which decides when ``every`` is due."""
        return torch.tensor(self._calls)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of calls."""
        self._calls = int(state)

    def _due(self) -> bool:
        self._calls += 1
        return (self._calls - 1) % self.every == 0

    def _penalty(self, quotients: Tensor) -> Tensor:
        quotients = union(quotients)
        self.largest.copy_(quotients.detach().amax())
        weight = self.lam * self.every if self.training else self.lam
        if self.aggregate == "max":
            return weight * quotients.amax()
        if self.aggregate == "mean":
            return weight * quotients.mean()
        temperature = (_TEMPERATURE * quotients.detach().amax()).clamp_min(torch.finfo(quotients.dtype).tiny)
        spread = torch.logsumexp(quotients / temperature, dim=0) - math.log(len(quotients))
        return weight * temperature * spread

    def _climb_after_backward(
        self, leaf: Tensor, x: Tensor, ends: Tensor, quotients: Tensor, weights: Tensor, upstream: Tensor
    ) -> None:
        """Move the pairs once the backward pass has reached ``leaf``, the inputs of the shared pass."""
        self._unanswered += 1
        if self._unanswered == _UNANSWERED:
            warnings.warn(
                f"{_UNANSWERED} calls of clip.joint and no backward pass through the penalty, so pairs never moved: "
                "call loss.backward() on a loss that contains the penalty, or use clip(model)",
                CheaplipWarning,
                stacklevel=3,
            )

        @torch.no_grad()
        def climb(leaf: Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            if gradient is None or weights.grad is None:  # a backward pass that left the penalty out
                return
            self._unanswered = 0
            handle.remove()  # one climb for each call, however often its graph is used
            per_pair = weights.grad / quotients.where(quotients > 0, 1)
            self.pairs.move_(
                quotients,
                ends,
                gradient[-len(ends) :],
                weights=per_pair.where(per_pair > 0, 1),
                norm_in=self.norm_in,
                stride=self.every,
            )
            pulls = None
            if len(gradient) > len(ends) and upstream.grad is not None:
                slopes = distance(at_least_float32(upstream.grad)).clamp_min(torch.finfo(torch.float32).tiny)
                pulls = at_least_float32(gradient[: len(x)]) / slopes.reshape(-1, *[1] * (x.dim() - 1))
            self.pairs.renew_(quotients, x, pulls, stride=self.every)

        handle = leaf.register_post_accumulate_grad_hook(climb)  # type: ignore[no-untyped-call]
