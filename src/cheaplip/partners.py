"""A stored perturbation for every training input, which climbs the loss whenever the input comes up."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.domain import Box, Domain
from cheaplip.quotient import column, distance

__all__ = ["Partners"]

_TINY = 1e-30
_INDEXED = (
    "let your data set return it beside the input, and keep it when the loader shuffles: "
    "TensorDataset(x, y, torch.arange(len(x))) does"
)


class Partners(nn.Module):
    r"""Perturb each training input x\ :sub:`i` by a δ\ :sub:`i` of its own, ‖δᵢ‖₂ ≤ ``radius``, that climbs the loss.

    ``partners(x, index)`` returns x + δ. The backward pass of your own loss then holds the gradient of the loss at
    x + δ, and each δᵢ takes one step along it, without a pass of its own. An input comes up once an epoch, so its δ
    takes one step an epoch; the network changes little in between. The radius grows to its full size in the first
    epochs.

    In train mode a call moves the perturbations when ``loss.backward()`` runs; after ``partners.eval()`` they stay.
    Augment after perturbing, ``model(augment(partners(x, index)))``: the gradient then reaches δ through the
    augmentation.

    Under ``torch.distributed`` each process keeps its own perturbations, of the inputs that it sees.

    Args:
        x: all training inputs, (N, \*input), floating-point. Kept by reference.
        radius: largest Euclidean length of a perturbation, positive, in the units of the inputs. The attribute may be
            changed between calls, also to a scalar tensor; perturbations that are too long then are shortened.
        domain: where inputs live; x + δ never leaves it. None: all of space.
        step: length of one climb, in units of ``radius``.
        ramp: number of epochs in which the radius grows from 0 to its full size.
        every: move perturbations in each ``every``-th call only, the first one included; the calls between cost no
            gradient with respect to the inputs.
        dtype: in which perturbations are stored, ``torch.float16`` for half the memory. None: that of ``x``.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: an option is out of range, or ``x`` lies outside the domain.

    Reference:
        Zheng et al. 2020 (perturbations kept from epoch to epoch) and Shafahi et al. 2019 (one backward pass for the
        weights and the inputs).

    Example:
        >>> import torch
        >>> x, y, index = torch.rand(64, 3), torch.randint(2, (64,)), torch.arange(64)
        >>> model, partners = torch.nn.Linear(3, 2), Partners(x, radius=0.5, ramp=0)
        >>> torch.nn.functional.cross_entropy(model(partners(x, index)), y).backward()
        >>> bool((partners.shift != 0).any())
        True
    """

    shift: Tensor

    def __init__(
        self,
        x: Tensor,
        *,
        radius: float,
        domain: Domain | None = None,
        step: float = 2 / 3,
        ramp: float = 3.0,
        every: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x: expected all training inputs, a floating-point tensor (N, *input), got {got}")
        for name, value in (("radius", radius), ("step", step)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if not (math.isfinite(ramp) and ramp >= 0):
            raise ValueError(f"ramp: expected a finite number of at least 0, got {ramp}")
        if every < 1:
            raise ValueError(f"every: expected 1 or more, got {every}")
        self.domain = Box() if domain is None else domain
        self.domain.check_shape(tuple(x.shape[1:]))
        if not self.domain.contains(x):
            raise ValueError(
                f"x has values outside the domain {self.domain!r}: widen it, or normalise inside the model"
            )
        if isinstance(self.domain, Box) and self.domain.bounded:
            _check_radius(radius, self.domain, x)
        self._radius: float | Tensor = float(radius)
        self._changed = False  # whether stored perturbations may be longer than the radius
        self.step = step
        self.ramp = ramp
        self.every = every
        self.register_buffer("shift", torch.zeros(x.shape, dtype=dtype or x.dtype, device=x.device))
        self._inputs = x.detach()
        self._checked = False
        self._seen = 0  # inputs so far, which the ramp counts
        self._calls = 0
        self._anchor = torch.zeros((), device=x.device, requires_grad=True)

    def __len__(self) -> int:
        return len(self.shift)

    def extra_repr(self) -> str:
        """The options, as given."""
        return f"{len(self)} inputs, radius={self.radius:g}, step={self.step:g}, ramp={self.ramp:g}, every={self.every}"

    @property
    def radius(self) -> float | Tensor:
        """The largest length of a perturbation, after the ramp."""
        return self._radius

    @radius.setter
    def radius(self, radius: float | Tensor) -> None:
        self._radius, self._changed = radius, True

    @property
    def reach(self) -> float | Tensor:
        """The radius now: smaller than ``radius`` in the first epochs."""
        return self.radius * min(1.0, self._seen / (self.ramp * len(self))) if self.ramp > 0 else self.radius

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        r"""Return the perturbed inputs, (B, \*input).

        Args:
            x: inputs of a batch, (B, \*input), before any augmentation.
            index: their rows in the training data, (B,), integers.

        Raises:
            TypeError: there is no index, or it does not hold integers.
            ValueError: an index is out of range, or names another input than the one that came with it.
        """
        index = self._checked_index(x, index)
        if not self.training:
            return self._perturbed(x, index)
        moves = self._calls % self.every == 0  # the first call does, as in CLIP: both then share their gradients
        self._seen += len(x)
        self._calls += 1
        if not moves:
            return self._perturbed(x, index)
        perturbed: Tensor = _Perturb.apply(self._anchor, x, index, self)  # type: ignore[no-untyped-call]
        return perturbed

    @torch.no_grad()
    def climb_(self, x: Tensor, index: Tensor, gradient: Tensor) -> None:
        r"""Move perturbations one step along ``gradient``, and project them on ball and domain.

        Args:
            x: inputs, (B, \*input).
            index: their rows in the training data, (B,).
            gradient: of the loss at x + δ, (B, \*input); only its direction counts. Rows that are not finite move
                nothing.
        """
        shift = self.shift.index_select(0, index).to(x.dtype)
        length = distance(gradient)
        pace = self.step * self.radius / length.clamp_min(_TINY)
        moved = torch.where(column(torch.isfinite(length), x), torch.addcmul(shift, gradient, column(pace, x)), shift)
        self._shorten_(moved)
        moved = self.domain.project(moved.add_(x)).sub_(x)
        self.shift.index_copy_(0, index, moved.to(self.shift.dtype))

    def get_extra_state(self) -> Tensor:
        """How many inputs and calls there were, which decides the radius and when perturbations move."""
        return torch.tensor([self._seen, self._calls])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        self._seen, self._calls = state.tolist()

    def _perturbed(self, x: Tensor, index: Tensor) -> Tensor:
        shift = self.shift.index_select(0, index).to(x.dtype)
        if self._changed:
            self._shorten_(shift)
        return self.domain.project(shift.add_(x))

    def _shorten_(self, shift: Tensor) -> None:
        """Project perturbations on the ball."""
        shift.mul_(column((self.reach / distance(shift).clamp_min(_TINY)).clamp_max(1.0), shift))

    def _checked_index(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Check the first batch and return its index; later batches are not checked: that would wait for the device."""
        if self._checked and index is not None:
            return index
        if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool:
            got = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"index: expected the rows of x in the training data, integers (B,), got {got}: {_INDEXED}")
        if index.shape != x.shape[:1] or x.shape[1:] != self.shift.shape[1:]:
            raise ValueError(
                f"expected inputs (B, {', '.join(map(str, self.shift.shape[1:]))}) and B indices, got x of shape "
                f"{tuple(x.shape)} and index of shape {tuple(index.shape)}"
            )
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(
                f"index: expected rows from 0 to {len(self) - 1}, got {int(index.min())} to {int(index.max())}"
            )
        if not torch.equal(self._inputs[index].to(x), x):
            raise ValueError(
                "index: the inputs are not the rows of the training data that it names. If the loader shuffles, "
                f"{_INDEXED}. If you augment, do so after perturbing: model(augment(partners(x, index)))"
            )
        self._checked = True
        return index


class _Perturb(torch.autograd.Function):
    r"""x + δ, (B, \*input); in the backward pass δ climbs."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, x: Tensor, index: Tensor, partners: Partners) -> Tensor:
        """``_anchor`` requires a gradient, and with it the result, whether or not ``x`` does."""
        ctx.save_for_backward(x, index)
        ctx.partners, ctx.moved = partners, False
        return partners._perturbed(x, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Move the perturbations, and pass the gradient on if x wants it."""
        if not ctx.moved:  # another backward pass through the same graph moves nothing
            ctx.moved = True
            ctx.partners.climb_(*ctx.saved_tensors, gradient)
        return None, gradient if ctx.needs_input_grad[1] else None, None, None


def _check_radius(radius: float, box: Box, x: Tensor) -> None:
    """Refuse a radius that reaches across the whole box from anywhere: it says nothing about stability."""
    low, high = box.bounds(x.device, x.dtype)
    diagonal = float(torch.linalg.vector_norm((high - low).expand(x.shape[1:]).flatten()))
    if radius > diagonal:
        raise ValueError(f"radius: expected at most {diagonal:g}, the diagonal of the domain {box!r}, got {radius:g}")
