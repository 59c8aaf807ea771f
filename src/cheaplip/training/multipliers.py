"""The multipliers of a bound within a loss, trained beside the weights."""

from typing import Any

import torch
from torch import nn

__all__ = ["Multipliers", "one_cycle"]

_RISE = 0.15  # part of the run in which the learning rate rises
_RATE = 2e-2  # peak learning rate of log T


class Multipliers:
    """The multipliers of a bound: Adam, whatever trains the weights, for only their direction matters."""

    def __init__(self, bound: nn.Module, total_steps: int) -> None:
        self.bound = bound
        self.optimizer = torch.optim.Adam(bound.parameters(), lr=_RATE)
        self.scheduler = one_cycle(self.optimizer, _RATE, total_steps, _RISE)

    def step(self) -> None:
        """Use the gradients that the loss left."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
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
    """The learning rate rises to its peak during a part ``rise`` of the run, then falls."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=max(steps, 2), pct_start=rise, cycle_momentum=False
    )
