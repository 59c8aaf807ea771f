"""The learning-rate schedule of a run, and the optimizer of the multipliers of a bound.

A bound that is part of the loss, such as :class:`cheaplip.LipschitzBound`, has parameters of its own, the multipliers.
They are trained beside the weights, by an optimizer of their own.
"""

from typing import Any

import torch
from torch import nn

__all__ = ["MultiplierOptimizer", "one_cycle"]

_RISE = 0.15  # fraction of the run in which the multipliers' learning rate rises
_RATE = 2e-2  # peak learning rate of log T


class MultiplierOptimizer:
    """Train the multipliers of a bound that is part of the loss; its parameters are their logarithms, log T.

    It is Adam whichever optimizer trains the weights, because only the direction of the multipliers matters.

    Args:
        bound: a module whose parameters are the multipliers, such as :class:`cheaplip.LipschitzBound`.
        total_steps: training steps of the whole run.
    """

    def __init__(self, bound: nn.Module, total_steps: int) -> None:
        self.bound = bound
        self.optimizer = torch.optim.Adam(bound.parameters(), lr=_RATE)
        self.scheduler = one_cycle(self.optimizer, _RATE, total_steps, _RISE)

    def step(self) -> None:
        """Move the multipliers along the gradients of the last ``loss.backward()``, and clear these."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "bound": self.bound.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.bound.load_state_dict(state["bound"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int, rise: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Make a schedule in which the learning rate rises to its peak, then falls.

    Args:
        optimizer: the optimizer whose learning rate it sets.
        peak: the largest learning rate.
        steps: training steps of the whole run.
        rise: fraction of the steps, in (0, 1), in which it rises.
    """
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=max(steps, 2), pct_start=rise, cycle_momentum=False
    )
