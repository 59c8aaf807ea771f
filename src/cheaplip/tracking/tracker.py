"""What every tracker is told of a training, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.errors import Interrupted

__all__ = ["Ending", "Tracker", "final", "numbers", "pictures", "tracked"]

Ending = Literal["finished", "interrupted", "failed"]

_SMALLEST = 4  # pixels; smaller arrays are no images


class Tracker(Protocol):
    """Told of a training by the process that leads: its start, each epoch, the final figures, its ending."""

    def start(self, config: Mapping[str, Any], first: int) -> None:
        """A training begins, or goes on, with epoch ``first``; what was told of that epoch or later is void.

        Raises:
            RunError: there is nowhere to track to.
        """

    def epoch(self, line: Mapping[str, Any]) -> None:
        """An epoch has ended; ``line`` as in ``history.jsonl``."""

    def finish(self, metrics: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        """The final figures as in ``metrics.json``, and the steepest pair, (C, H, W) in [0, 1], where it is images."""

    def stop(self, ending: Ending) -> None:
        """Nothing more comes."""


@contextmanager
def tracked(trackers: Sequence[Tracker], config: Mapping[str, Any], first: int) -> Iterator[None]:
    """Start trackers, and stop them however the training ends."""
    started: list[Tracker] = []
    ending: Ending = "failed"
    try:
        for tracker in trackers:
            tracker.start(config, first)
            started.append(tracker)
        yield
        ending = "finished"
    except (Interrupted, KeyboardInterrupt):
        ending = "interrupted"
        raise
    finally:
        for tracker in started:
            tracker.stop(ending)


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an epoch, without its number."""
    return {
        key: float(value)
        for key, value in line.items()
        if key != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def final(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The final figures by path, such as ``accuracy/test``."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        inner = final(value) if isinstance(value, Mapping) else {}
        flat |= {f"{key}/{name}": figure for name, figure in inner.items()}
        flat |= numbers({key: value})
    return flat


def pictures(u: Tensor, v: Tensor, domain: Box) -> dict[str, Tensor]:
    """Two inputs and their difference (grey: none) as images (C, H, W) in [0, 1]; empty where they are no images."""
    u, v = (point.detach().cpu().float() for point in (u, v))
    u, v = (point[None] if point.dim() == 2 else point for point in (u, v))
    if u.dim() != 3 or u.shape[0] not in (1, 3) or min(u.shape[1:]) < _SMALLEST:
        return {}
    low, high = float(domain.low.min()), float(domain.high.max())
    if not torch.isfinite(torch.tensor([low, high])).all():
        low, high = float(torch.minimum(u, v).min()), float(torch.maximum(u, v).max())
    width = high - low or 1.0
    difference = v - u
    largest = float(difference.abs().max()) or 1.0
    return {
        "u": ((u - low) / width).clamp(0, 1),
        "v": ((v - low) / width).clamp(0, 1),
        "difference": 0.5 + 0.5 * difference / largest,
    }
