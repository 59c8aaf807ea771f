"""The interface of a tracker: what a training calls, with what, and in which order."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.errors import Interrupted

__all__ = ["Ending", "Tracker", "final", "numbers", "pictures", "tracked"]

Ending = Literal["finished", "interrupted", "failed"]
"""How a training ended."""

_SMALLEST = 4  # pixels; smaller arrays are not images


class Tracker(Protocol):
    """Records a training: its start, each epoch, the final figures, and how it ended.

    If several processes train together, only the first of them calls its trackers.
    """

    def start(self, config: Mapping[str, Any], first: int) -> None:
        """Begin, or continue.

        Args:
            config: the options of the training.
            first: the epoch it starts with, 1 or later; what was recorded of this epoch and later ones is obsolete.

        Raises:
            RunError: the records cannot be written.
        """

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Record an epoch that has ended, by its line of ``history.jsonl``."""

    def finish(self, metrics: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        """Record the final figures.

        Args:
            metrics: as in ``metrics.json``.
            images: of the steepest pair, (C, H, W) in [0, 1]; empty if inputs are not images.
        """

    def stop(self, ending: Ending) -> None:
        """End; no other call follows."""


@contextmanager
def tracked(trackers: Sequence[Tracker], config: Mapping[str, Any], first: int) -> Iterator[None]:
    """Start trackers, and stop them when the training inside the ``with`` block ends, in whatever way."""
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
    """Pick the figures of an epoch, without the epoch's number."""
    return {
        key: float(value)
        for key, value in line.items()
        if key != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def final(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Flatten the final figures, with keys such as ``accuracy/test``."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        inner = final(value) if isinstance(value, Mapping) else {}
        flat |= {f"{key}/{name}": figure for name, figure in inner.items()}
        flat |= numbers({key: value})
    return flat


def pictures(u: Tensor, v: Tensor, domain: Box) -> dict[str, Tensor]:
    """Turn two inputs and their difference into images (C, H, W) in [0, 1]; empty if the inputs are not images.

    In the difference, grey means that the inputs are equal.

    Args:
        u, v: inputs, (H, W) or (C, H, W).
        domain: its smallest and largest value become black and white; where they are infinite, those of u and v do.
    """
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
