"""The model of a run before training."""

from torch import nn

from cheaplip.data import Data
from cheaplip.training.config import TrainConfig
from cheaplip.training.models import build
from cheaplip.training.tasks import task_of

__all__ = ["untrained"]


def untrained(config: TrainConfig, data: Data) -> nn.Module:
    """The model of a run before training, with weights drawn from its seed."""
    network = build(
        config.model,
        data.shape,
        data.outputs,
        activation=config.resolved_activation,
        final_activation=config.final_activation,
        seed=config.seed,
    )
    return task_of(data).served(network, data.train.y)
