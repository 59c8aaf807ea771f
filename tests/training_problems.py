"""Small problems that methods are tested on, one step at a time."""

import torch
from torch import nn

from cheaplip import Box
from cheaplip.data import Data, Split
from cheaplip.training import TrainConfig
from cheaplip.training.methods import Method, Setting
from cheaplip.training.tasks import task_of


def setting(model, x, y, *, domain=None, steps=100, **options):
    """What a method is made from, for a model and all of its training data."""
    split = Split(x, y)
    data = Data("toy", split, split, split, int(y.max()) + 1, domain or Box(-9.0, 9.0), epsilon=0.4, noise=0.2)
    config = TrainConfig(data="toy", **options)
    return Setting(config, model, data, x[:0], task_of(data), steps, torch.Generator().manual_seed(0))


def descend(method: Method, model: nn.Module, x, y, *, steps: int, lr: float) -> list[float]:
    """Take steps as the training loop does, and return the loss before each of them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    found = []
    for step in range(steps):
        method.before_step(step, torch.arange(len(x)))
        total, _, _ = method.losses(model, x, y)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        method.after_step()
        found.append(total.item())
    return found
