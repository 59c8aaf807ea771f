"""How the quotient of a pair is computed, and rounded downwards: by a proof, or by an estimate of the rounding."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.lipschitz.search.arithmetic import Arithmetic
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import Norm, exact_quotient

__all__ = ["Enclosure", "Scoring"]

Enclosure = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function of inputs (B, \\*input) float64 to values that are certainly below and above the exact outputs."""

_OUTPUT_ERROR = 64  # least rounding error of an output that is assumed, in units in the last place
_TRIALS = 3  # evaluations with deliberate rounding errors
_CAUTION = 16  # how many times their largest effect is assumed


class Scoring(NamedTuple):
    """How the quotient of a pair is computed and rounded downwards.

    Attributes:
        norm_in, norm_out: as in :func:`cheaplip.quotient.quotient`.
        enclosure: encloses the model's exact outputs; None if it is not known.
    """

    norm_in: Norm
    norm_out: Norm
    enclosure: Enclosure | None

    @torch.no_grad()
    def first_look(self, model: Model, u: Tensor, v: Tensor) -> Tensor:
        """Compute each pair's quotient, minus the rounding of the outputs alone, as if that of the model were small."""
        fu, fv = _outputs(model, u, v).chunk(2)
        return self._less(fu, fv, _least_error(fu) + _least_error(fv), u, v)

    @torch.no_grad()
    def estimated(self, model: Model, u: Tensor, v: Tensor) -> Tensor:
        """Compute each pair's quotient, minus an estimate of what the rounding of the whole model may have added.

        The model is evaluated again with random errors of two units in the last place in the arguments of every
        operation. What these change is assumed many times over, so that cancellation inside the model shows.
        """
        output = _outputs(model, u, v)
        error = output.abs().zero_()
        for seed in range(_TRIALS):
            with Arithmetic(promote=False, noise=torch.finfo(u.dtype).eps, seed=seed):
                error = torch.maximum(error, (_outputs(model, u, v) - output).abs())
        (fu, fv), (error_u, error_v) = output.chunk(2), (_least_error(output) + _CAUTION * error).chunk(2)
        return self._less(fu, fv, error_u + error_v, u, v)

    @torch.no_grad()
    def proved(self, u: Tensor, v: Tensor) -> Tensor:
        """Compute each pair's quotient, minus all that rounding can have added; −1 if no enclosure is known."""
        u, v = u.double(), v.double()
        if self.enclosure is None:
            return torch.full((len(u),), -1.0, dtype=u.dtype, device=u.device)
        low, high = self.enclosure(torch.cat([u, v]))
        (fu, fv), (error_u, error_v) = ((low + high) / 2).chunk(2), (high - low).chunk(2)
        return self._less(fu, fv, error_u + error_v, u, v)

    def _less(self, fu: Tensor, fv: Tensor, error: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Subtract what ``error`` in fu − fv, (B, \\*output), can have added; −1 where the result is not finite."""
        norms = {"norm_in": self.norm_in, "norm_out": self.norm_out}
        terms = fu[0].numel() + u[0].numel()  # a norm is a sum of so many squares
        found = exact_quotient(fu, fv, u, v, **norms) * (1 - (terms + 16) * torch.finfo(u.dtype).eps)
        return (found - exact_quotient(error, torch.zeros_like(error), u, v, **norms)).nan_to_num(-1.0, posinf=-1.0)


def _outputs(model: Model, u: Tensor, v: Tensor) -> Tensor:
    with evaluation_mode(model):
        output: Tensor = model(torch.cat([u, v]))
    return output


def _least_error(output: Tensor) -> Tensor:
    return _OUTPUT_ERROR * torch.finfo(output.dtype).eps * output.abs()
