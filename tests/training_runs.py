"""Small training runs, and what tests of them share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip import Box
from cheaplip.data import Data, Split
from cheaplip.training import TrainConfig
from cheaplip.training.methods import Method, Setting, method_named
from cheaplip.training.tasks import task_of

QUICK = TrainConfig(data="digits", epochs=3, model="mlp:20", activation="relu", target=0.9, pairs=8, probe=0, search=8)

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


def toy_data(shape: tuple[int, ...] = (6,), *, rows: int = 60, seed: int = 0) -> Data:
    """Inputs in the unit cube with three classes that a network can learn: the parts are the same."""
    x = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed))
    part = Split(x, x.flatten(1)[:, :3].argmax(dim=1))
    return Data("toy", part, part, part, 3, Box(0.0, 1.0), epsilon=0.4, noise=0.2)


def method_on(name: str, network: nn.Module, data: Data, *, held_out: Tensor | None = None, **options) -> Method:
    """Make a method for a network, as a run does."""
    setting = Setting(
        TrainConfig(data="toy", method=name, **options),
        network,
        data,
        data.train.x[:0] if held_out is None else held_out,
        task_of(data),
        100,
        torch.Generator().manual_seed(0),
    )
    return method_named(name)(setting)


def term_of(method: Method, network: nn.Module, data: Data) -> float:
    """What λ multiplies in a method's loss, on all the data."""
    method.before_step(0, torch.arange(len(data.train.x)))
    total, fit, _ = method.losses(network, *data.train)
    return float((total - fit).detach() / method.penalty.lam)
