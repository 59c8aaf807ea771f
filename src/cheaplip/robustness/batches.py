"""How many inputs to attack at once, and the sign of life that a long attack gives between its batches."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from cheaplip.model import Model, call_on_copy
from cheaplip.robustness.stage import Stage

__all__ = ["MOST", "Reporting", "fitting_batch_size", "in_parts"]

MOST = 1000
"""Inputs in a batch, at most."""

_BUDGET = 1 << 30  # bytes that the forward pass of a batch may keep for its backward pass
_SECONDS = 1.0  # between two reports from within a batch


def fitting_batch_size(model: Model, x: Tensor) -> int:
    r"""Return how many inputs to attack at once: 1,000, or as many as keep less than 1 GiB for the backward pass.

    The number does not depend on the machine, so that the same seed gives the same attack everywhere.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        x: inputs (N, \*input).
    """
    if len(x) < 2:
        return 1
    one, two = (_kept(model, x[:count]) for count in (1, 2))  # what weights take is in both
    return max(1, min(MOST, _BUDGET // max(1, two - one)))


def in_parts(stage: Stage, x: Tensor, y: Tensor) -> Tensor:
    r"""Run a stage on a batch (B, \*input), or on parts of it if the device's memory does not suffice."""
    try:
        return stage(x, y)
    except torch.OutOfMemoryError:
        if len(x) == 1:
            raise
    middle = len(x) // 2
    return torch.cat([in_parts(stage, x[part], y[part]) for part in (slice(middle), slice(middle, None))])


class Reporting:
    """A model that reports, about once a second, how far the attack on it is: a report may stop the attack.

    Args:
        model: the model to call.
        progress: called with (done, total).
    """

    def __init__(self, model: Model, progress: Callable[[int, int], None]) -> None:
        self.model = model
        self.progress = progress
        self._position: tuple[int, int] | None = None
        self._last = time.monotonic()

    def __call__(self, x: Tensor) -> Tensor:
        """Call the model."""
        if self._position is not None and time.monotonic() - self._last > _SECONDS:
            self.report(*self._position)
        return self.model(x)

    def report(self, done: int, total: int) -> None:
        """Report now, and in the following calls that no more has been done."""
        self._position = done, total
        self.progress(done, total)
        self._last = time.monotonic()


def _kept(model: Model, x: Tensor) -> int:
    """Return how many bytes the forward pass of a batch keeps for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = call_on_copy(model, x.detach().clone().requires_grad_())
    del output  # alive until here, so that no storage has taken another one's place
    return sum(kept.values())
