"""The budget of a search: its steps and seconds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Budget"]


@dataclass
class Budget:
    """Steps and seconds to spend; reports progress.

    Attributes:
        steps: in all.
        seconds: in all, from construction. None: no limit.
        progress: called with (steps done, steps in all) after each step.
        done: steps spent so far.
        started: when it was constructed, on the clock of ``time.monotonic()``.
    """

    steps: int
    seconds: float | None = None
    progress: Callable[[int, int], None] | None = None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def spend(self) -> bool:
        """Count a step; return whether there is time for another."""
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.steps), self.steps)
        return self.left() > 0

    def left(self) -> float:
        """Return the seconds that are left; inf without a limit."""
        return math.inf if self.seconds is None else self.started + self.seconds - time.monotonic()
