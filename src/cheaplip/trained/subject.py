"""What is bracketed and certified: a trained model, and the data it is about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cheaplip.data import Data, load
from cheaplip.errors import ConfigError, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.weights import load_program, load_weights
from cheaplip.training.config import TrainConfig, from_json
from cheaplip.training.models import Activation, build, check_model
from cheaplip.training.untrained import untrained

__all__ = ["Subject", "data_of", "load_trained", "of_model", "of_run"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model in evaluation mode, its data on the same device, and where results about it are kept.

    Attributes:
        name: for tables.
        model, data: they fit each other.
        folder: the run's; for a model from elsewhere a new one, or None: nothing is kept.
        config: the run's. None: a model from elsewhere.
    """

    name: str
    model: nn.Module
    data: Data
    folder: RunFolder | None
    config: TrainConfig | None = None

    def metrics(self) -> dict[str, Any]:
        """What is known of a run's model so far; of one from elsewhere, nothing yet."""
        return {} if self.config is None or self.folder is None else self.folder.read_json("metrics.json")


def of_run(folder: RunFolder, data: Data | None = None) -> Subject:
    """The model of a finished run, with its data, unless that is loaded already.

    Raises:
        RunError: there is no finished run, or its weights do not fit.
        DataError: its data is no longer there.
    """
    folder.read_json("metrics.json")
    config = from_json(folder.read_json("config.json"))
    config.check_device()
    if data is None:
        data = data_of(config)
    return Subject(folder.path.name, load_trained(folder, config, data), data, folder, config)


def of_model(
    model: str,
    data: Data,
    *,
    weights: Path | None = None,
    activation: Activation = "sigmoid",
    out: Path | None = None,
) -> Subject:
    """A model from elsewhere.

    Args:
        model: a ``.pt2`` file of torch.export, which holds its weights, or a name that
            :func:`cheaplip.training.models.build` knows, such as ``package.module:function``.
        data: what it is about.
        weights: of a model by name, see :func:`cheaplip.runs.weights.load_weights`.
        activation: of ``mlp`` and ``cnn``.
        out: a new folder for the results. None: nothing is kept.

    Raises:
        ConfigError: weights are missing, or one too many.
        ModelError: the model or its weights cannot be loaded, or do not fit the data.
        RunError: there is something in ``out`` already.
    """
    if model.endswith(".pt2"):
        if weights is not None:
            raise ConfigError(f"weights: a .pt2 file holds its own, got {weights} as well: leave it out")
        loaded = load_program(Path(model), data.shape)
        check_model(loaded, model, data.shape, data.outputs)
    else:
        if weights is None:
            raise ConfigError(
                f"weights: expected the file that holds those of {model}, a .safetensors file or a state dict: "
                "say --weights FILE"
            )
        loaded = build(model, data.shape, data.outputs, activation=activation)
        load_weights(loaded, weights)
    if out is not None and out.exists() and any(out.iterdir()):
        raise RunError(f"output folder {out} exists and is not empty: choose another --out")
    folder = None if out is None else RunFolder(out)
    if folder is not None:
        folder.create()
    for parameter in loaded.parameters():
        parameter.requires_grad_(False)
    name = Path(model).stem if model.endswith(".pt2") else model
    return Subject(name, loaded.to(data.train.x.device).eval(), data, folder)


def data_of(config: TrainConfig) -> Data:
    """The data that a configuration names, on its device.

    Raises:
        DataError: they cannot be loaded, or used.
    """
    data = load(config.data, label=config.label, task=config.task, scaling=config.scaling, split_seed=config.split_seed)
    return data.to(config.resolved_device)


def load_trained(folder: RunFolder, config: TrainConfig, data: Data) -> nn.Module:
    """The trained model of a run, in evaluation mode, on the data's device.

    Raises:
        RunError: there is no finished run, or its weights do not fit.
    """
    model = untrained(config, data)
    folder.load_model(model)
    return model.to(data.train.x.device).eval()
