r"""One forward pass for the batch and the pairs, and one backward pass that moves the pairs.

:meth:`CLIP.joint` puts two autograd functions around the model::

    x, u, v  ──Join──>  z  ──model──>  out  ──Split──>  output, penalty

``Join`` stacks the batch x and both ends u, v of every pair, so that the model is called once. ``Split`` takes the
outputs apart: the batch's are the user's output, the pairs' make the penalty. The backward pass of the user's loss runs
from right to left. ``Split`` turns the gradient of the penalty into one of the pairs' outputs; the model carries it to
``Join``, and there it is what pairs need to climb: the gradient of their quotients with respect to u and v. So pairs
climb, and the weakest are replaced, in the backward pass of ``Join``.

``Join`` also needs three things that only ``Split`` knows: how steep the loss is at each output of the batch, the
weight of each quotient in the loss, and the quotients. They travel by *messengers*: three more outputs of ``Join``,
whose values nobody reads, which are inputs of ``Split``. What the backward pass of ``Split`` returns as their
"gradients", autograd delivers to the backward pass of ``Join``. This is plain autograd, without hooks and without state
outside the graph, so ``torch.compile`` can trace it.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from cheaplip.pairs import PairSet
from cheaplip.quotient import at_least_float32, column, distance

__all__ = ["Join", "Penalty", "Split"]


class Penalty(Protocol):
    """What a shared pass moves the pairs of: a :class:`CLIP`."""

    pairs: PairSet

    def move_pairs_(
        self, x: Tensor, gradient: Tensor, slopes: Tensor | None, weights: Tensor, quotients: Tensor
    ) -> None:
        """See :meth:`CLIP.move_pairs_`."""


class Join(torch.autograd.Function):
    r"""From the batch x, (B, \*input), to batch and pairs, (B + 2n, \*input), and three messengers."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, x: Tensor, clip: Penalty) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Stack; ``_anchor`` is a scalar that requires a gradient, so that the stack does whether or not ``x`` does."""
        ctx.clip, ctx.moved = clip, False
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        u, v = clip.pairs.u, clip.pairs.v
        stack = torch.cat([x, u.to(x.dtype), v.to(x.dtype)])
        slopes, weights, quotients = u.new_empty(len(x)), u.new_empty(len(u)), u.new_empty(len(u))
        return stack, slopes, weights, quotients

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, slopes: Tensor | None, weights: Tensor | None, quotients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Move the pairs, and pass the batch's gradient on."""
        (x,) = ctx.saved_tensors
        if gradient is not None and weights is not None and quotients is not None:  # the loss holds the penalty
            if torch.compiler.is_compiling():  # a compiled graph has one backward pass
                ctx.clip.move_pairs_(x, gradient, slopes, weights, quotients)
            elif not ctx.moved:  # another backward pass through the same graph moves nothing
                ctx.moved = True
                ctx.clip.move_pairs_(x, gradient, slopes, weights, quotients)
        of_x = gradient[: len(x)] if gradient is not None and ctx.needs_input_grad[1] else None
        return None, of_x, None


class Split(torch.autograd.Function):
    r"""From the outputs for batch and pairs to the batch's output, (B, \*output), and the penalty."""

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, penalty: Tensor, quotients: Tensor, rises: Tensor, weights: Tensor, *_messengers: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Cut the batch's output off; the penalty is known already, and so is its gradient at the pairs' outputs.

        Args:
            out: (B + 2n, \*output).
            penalty: a scalar.
            quotients: (n,).
            rises: gradients of the quotients with respect to f(u), (n, \*output); for f(v) their opposites.
            weights: derivatives of the penalty with respect to the quotients, (n,).
        """
        ctx.save_for_backward(quotients, rises, weights)
        ctx.set_materialize_grads(False)
        output = out[: len(out) - 2 * len(quotients)].clone()
        ctx.shape, ctx.dtype = output.shape, out.dtype
        return output, penalty.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, scale: Tensor | None) -> tuple[Tensor | None, ...]:
        """Take the gradients with respect to the output and to the penalty; return those of ``out`` and the messengers.

        Either is None where the loss leaves its part out.
        """
        quotients, rises, weights = ctx.saved_tensors
        slopes = None if gradient is None else distance(at_least_float32(gradient))
        if gradient is None:
            gradient = rises.new_zeros(ctx.shape, dtype=ctx.dtype)
        if scale is None:
            of_pairs = gradient.new_zeros((2 * len(rises), *ctx.shape[1:]))
            return torch.cat([gradient, of_pairs]), *[None] * 4, slopes, None, None
        weights = weights * scale
        of_u = (rises * column(weights, rises)).to(ctx.dtype)
        return torch.cat([gradient, of_u, -of_u]), *[None] * 4, slopes, weights, quotients
