"""The penalty as a module: its options and state, its two forms, and the warning that a backward pass is missing.

The file is long because a third of it is the documentation of one class and its options.
"""

import math
import warnings
import weakref
from typing import Any, get_args

import torch
from torch import Tensor, nn

from cheaplip.clip.aggregate import Aggregate, shares, weighted_aggregate
from cheaplip.clip.shared_pass import Join, Split
from cheaplip.distributed import own, ranks, union, unwrapped
from cheaplip.errors import CheaplipWarning
from cheaplip.model import Model, call_on_copy, check_model_and_inputs, checked_output
from cheaplip.modes import (
    check_independent_rows,
    check_repeatable,
    dropout_off,
    has_dropout,
    refuse_batch_dependent_layers,
)
from cheaplip.operators import enrol, take_turn
from cheaplip.pairs import PairSet
from cheaplip.quotient import Norm, check_norm, inverse_distance, quotient_and_slope

__all__ = ["CLIP"]

_PROBE = 1e-4  # share of λ at which a shared pass carries the gradients of pairs that the penalty leaves out
_UNANSWERED = 20  # joint calls without a backward pass before we say so


class CLIP(nn.Module):
    r"""Penalty λ·Lip(f), where Lip(f) is estimated by the largest difference quotient over a :class:`PairSet`.

    Add it to the loss of any model, and the model becomes less sensitive to its inputs. The larger λ (``lam``), the
    smaller the Lipschitz constant that training ends with; :class:`DiscrepancyPrinciple` finds λ for you.

        >>> import torch
        >>> from torch.nn.functional import cross_entropy
        >>> x, y = torch.rand(64, 3), torch.randint(2, (64,))
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clip = CLIP(PairSet(x, size=8), lam=0.1)
        >>> for _ in range(3):
        ...     output, penalty = clip.joint(model, x)
        ...     loss = cross_entropy(output, y) + penalty
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()

    There are two forms:

    - ``output, penalty = clip.joint(model, x)``, the cheap one: batch and pairs share one forward pass, and the
      gradients that move the pairs are read off the backward pass of your own loss. For models whose output for an
      input does not depend on the rest of the batch, so not for batch norm in training.
    - ``penalty = clip(model)``, for any model in any mode: the pairs have a pass of their own, in evaluation mode, so
      that dropout is off for them and batch-norm statistics never see them.

    In train mode a call moves the pairs (``joint``: when ``loss.backward()`` runs); after ``clip.eval()`` it only
    measures. The model is never wrapped; its modes, ``requires_grad`` and ``.grad`` stay as they were.

    Both forms compile: ``torch.compile(step, fullgraph=True)`` of a step with the model, the loss and the penalty takes
    one graph, and with ``every`` above 1 a second one for the calls between. A compiled call of ``joint`` does not
    check whether the outputs of a new model depend on the rest of the batch, does not warn of missing backward passes,
    and gives the pairs a pass of their own if dropout is active.

    Under ``torch.distributed`` every rank holds pairs of its own, as many as the others, and the penalty is that of
    all pairs together. So every rank must make the same calls, also to measure, and gradients must be averaged over
    the ranks, as DistributedDataParallel does.

    Args:
        pairs: the Lipschitz training set.
        lam: λ ≥ 0, kept in the buffer ``lam``, which :class:`DiscrepancyPrinciple` steers.
        aggregate: what stands for the largest quotient. ``"max"``: the largest itself, as in the paper; ``"softmax"``:
            the smooth maximum T·log mean exp(L/T), whose gradient weighs pairs by softmax(L/T), with T a fifth of the
            largest quotient; ``"mean"``: the mean.
        every: regularise each ``every``-th call, at ``every`` times the weight; the calls between cost nothing. Pairs
            then climb √every times as far, and as many newcomers come as would have come in ``every`` calls.
        norm_in, norm_out: 1, 2, ``inf``, or a callable from differences (B, \*shape) to norms (B,).

    Attributes:
        largest: the largest quotient last seen, a scalar buffer; an estimate of Lip(f) from below.
        calls: number of calls in train mode.
        due: whether the next call regularises.

    Raises:
        TypeError: ``pairs`` is no :class:`PairSet`.
        ValueError: an option is out of range.

    Reference:
        Bungert et al. 2021, Algorithm 2. The shared pass answers the paper's remark that the backward pass for the
        parameters already holds what the pairs need (after Shafahi et al. 2019).
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
        self._anchor = torch.zeros((), device=pairs.u.device, requires_grad=True)  # see Join
        self.calls = 0
        self.due = True
        self._number = enrol(self)
        self._unanswered = 0
        self._checked: weakref.ref[object] | None = None  # the model that shared a pass last
        self._writes = True  # whether that model writes into its input
        self._repeatable: weakref.ref[object] | None = None  # the one that had a pass of the pairs' own last

    def extra_repr(self) -> str:
        """The options, as given."""
        return f"aggregate={self.aggregate!r}, every={self.every}, norm_in={self.norm_in}, norm_out={self.norm_out}"

    def forward(self, model: Model) -> Tensor:
        """Compute the penalty in a pass of its own.

        In train mode the pairs first climb one step, which takes a forward and a backward pass over them; then the
        penalty is taken at the new pairs, as in Algorithm 2.

        Args:
            model: one tensor in, (B, *input), one tensor out, (B, *output).

        Returns:
            Scalar, λ times the aggregate of the quotients, differentiable with respect to the model's parameters.
        """
        if self.training and not self._turn():
            return self.lam.new_zeros(())
        return self._separate(model)

    def _separate(self, model: Model) -> Tensor:
        if not torch.compiler.is_compiling() and _is_new(model, self._repeatable):
            check_repeatable(unwrapped(model), self.pairs.ends())
            self._repeatable = weakref.ref(model)
        if self.training:
            quotients = self.pairs.climb_(model, norm_in=self.norm_in, norm_out=self.norm_out, stride=self.every)
            self.pairs.renew_(quotients, stride=self.every)
        return self._penalty(union(self.pairs.quotients(model, norm_in=self.norm_in, norm_out=self.norm_out)))

    def joint(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Compute the model's output for ``x`` and the penalty in one shared pass.

        The pairs climb when you call ``backward()`` on a loss that contains the penalty. The same pass knows where in
        the batch the model is steepest, and newcomers start there.

        Under autocast the pairs have a float32 pass of their own all the same: differences of bfloat16 outputs would
        be mostly rounding. The penalty's gradient contains 1e-4·λ times the mean gradient of all pairs besides its own
        part, which lets pairs that the aggregate leaves out climb, too.

        Args:
            model: as for ``clip(model)``, and the output for an input must not depend on the rest of the batch.
            x: (B, \*input), of the same shape as the pairs' inputs.

        Returns:
            The output, (B, \*output), and the penalty, a scalar.

        Raises:
            BatchDependentLayerError: a layer, named, mixes the inputs of a batch.
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` is not of the pairs' shape.
        """
        check_model_and_inputs("joint", model, x)
        shape = self.pairs.u.shape[1:]
        if x.shape[1:] != shape:
            raise ValueError(f"x: expected inputs of shape {tuple(shape)} as the pairs, got {tuple(x.shape[1:])}")
        if self.training and not self._turn():
            return self._output(model, x), self.lam.new_zeros(())
        if not self.training or torch.is_autocast_enabled(x.device.type):
            return self._output(model, x), self._separate(model)
        if torch.compiler.is_compiling() and has_dropout(model):
            return self._output(model, x), self._separate(model)
        refuse_batch_dependent_layers(model)
        z, *messengers = Join.apply(self._anchor, x, self)  # type: ignore[no-untyped-call]
        u, v = z.detach()[len(x) :].chunk(2)
        per_distance = inverse_distance(u, v, self.norm_in)  # now: a model may write into its input
        if torch.compiler.is_compiling():  # there is no active dropout then
            out = checked_output(model(z), len(z))
        else:
            before = z.detach().clone() if self._check(model, z) else None
            with dropout_off(model, first=len(x), rows=len(z)):
                out = checked_output(model(z), len(z))
            if before is not None:
                self._writes = not torch.equal(z.detach(), before)
        with torch.no_grad():
            fu, fv = out[len(x) :].chunk(2)
            quotients, rises = quotient_and_slope(fu, fv, per_distance, norm_out=self.norm_out)
            of_all_ranks = union(quotients)
            penalty, weights = self._penalty(of_all_ranks), self._weights(of_all_ranks)
        output, penalty = Split.apply(out, penalty, quotients, rises, weights, *messengers)  # type: ignore[no-untyped-call]
        return output, penalty

    @torch.no_grad()
    def move_pairs_(
        self, x: Tensor, gradient: Tensor, slopes: Tensor | None, weights: Tensor, quotients: Tensor
    ) -> None:
        r"""Let the pairs climb, and replace the weakest. The backward pass of :meth:`joint` calls this, you need not.

        Args:
            x: the batch, (B, \*input).
            gradient: of the loss with respect to batch and pairs, (B + 2n, \*input).
            slopes: lengths of the loss's gradients with respect to the outputs, (B,). None: the loss leaves them out.
            weights: derivatives of the loss with respect to the quotients, (n,).
            quotients: (n,).
        """
        if not torch.compiler.is_compiling():
            self._unanswered = 0
        self.pairs.move_(quotients, gradient[len(x) :], weights=weights, norm_in=self.norm_in, stride=self.every)
        pulls = gradient[: len(x)] if slopes is not None and len(x) > 0 else None
        self.pairs.renew_(quotients, x, pulls, slopes, stride=self.every)

    def take_turn(self) -> None:
        """Count a call, and note whether the next one is due."""
        self.calls += 1
        self.due = self.calls % self.every == 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_checked": None, "_repeatable": None}  # a weak reference travels nowhere

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

    def _output(self, model: Model, x: Tensor) -> Tensor:
        """Compute the model's output for a batch without pairs, with a copy of ``x`` if the model may write into it."""
        known = not torch.compiler.is_compiling() and not _is_new(model, self._checked)
        return model(x) if known and not self._writes else call_on_copy(model, x)

    def _check(self, model: Model, z: Tensor) -> bool:
        """Look at a model that is new, and warn if backward passes are missing; return whether it is new."""
        new = _is_new(model, self._checked)
        if new:
            check_independent_rows(model, z.detach())
            self._checked = weakref.ref(model)
        if not z.requires_grad:
            return new
        self._unanswered += 1
        if self._unanswered == _UNANSWERED:
            warnings.warn(
                f"{_UNANSWERED} calls of clip.joint and no backward pass through the penalty, so pairs never moved: "
                "call loss.backward() on a loss that contains the penalty, or use clip(model)",
                CheaplipWarning,
                stacklevel=3,
            )
        return new

    def _penalty(self, quotients: Tensor) -> Tensor:
        """The penalty for all ranks' quotients."""
        largest = quotients.detach().amax()
        self.largest.copy_(largest)
        return weighted_aggregate(quotients, self._weight(), self.aggregate, largest=largest)

    def _weights(self, quotients: Tensor) -> Tensor:
        """Derivatives of the penalty with respect to this rank's quotients, given all ranks', each a little raised.

        A pair whose derivative is 0 would send no gradient to its ends, and could not climb.
        """
        of_penalty = own(shares(quotients, self.aggregate)) * (ranks() * self._weight())
        probe = self.lam.clamp_min(len(self.pairs) * torch.finfo(torch.float32).eps ** 2)
        return torch.add(of_penalty, probe, alpha=_PROBE / len(self.pairs))

    def _weight(self) -> Tensor:
        return self.lam * self.every if self.training and self.every > 1 else self.lam


def _is_new(model: Model, known: weakref.ref[object] | None) -> bool:
    """Whether a model was not seen before; of functions, which may be new objects in each step, only the first is."""
    return known is None or (isinstance(model, nn.Module) and known() is not model)
