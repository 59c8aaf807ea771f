"""Small training runs, and what tests of them share."""

from collections.abc import Callable
from typing import Any

from cheaplip.training import TrainConfig

QUICK = TrainConfig(data="digits", epochs=3, model="mlp:20", activation="relu", target=0.9, pairs=8, probe=4)

CUBED = """
import torch

class Cubed(torch.nn.Module):
    def forward(self, x):
        return x ** 3

def net(shape, outputs):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs), Cubed())
"""
"""A module with a model that has no finite Lipschitz constant."""


def timeless(value: Any) -> Any:
    """Metrics or lines of a history without the figures that are times."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not key.startswith("seconds")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def stop_after(steps: int) -> Callable[[], bool]:
    """For the argument ``stop`` of ``train``: False so many times, then True."""
    left = iter([False] * steps)
    return lambda: next(left, True)
