"""The options that name a trained model: a run, or a model from elsewhere with its weights and its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.options import load_data
from cheaplip.data.scaling import Scaling
from cheaplip.errors import ConfigError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import TrainedModel, load_elsewhere, load_run
from cheaplip.training.config import TrainConfig
from cheaplip.training.models import Activation

__all__ = ["TrainedModelOptions"]


@dataclass(frozen=True, kw_only=True)
class TrainedModelOptions:
    """The model of a run, or a model from elsewhere with its weights and its data."""

    run: Annotated[str, tyro.conf.Positional]
    """the folder of a run; with --data a .onnx file, a .pt2 file that you trust, or with --weights a model's name"""
    weights: Path | None = None
    """weights of a model by name: a .safetensors file, or a state dict written by torch.save"""
    activation: Activation = "sigmoid"
    """activation of a model by name"""
    data: str | None = None
    """data of a model from elsewhere, named as in train; for a run, where its data are now if they have moved"""
    label: str | None = None
    """the column of a table, or the array of a .npz file, that holds the labels"""
    task: str = "classification"
    """task of that data: classification or regression"""
    scaling: Scaling = "none"
    """scaling of that data's features; standard if the model was trained on standardised features"""
    split_seed: int = 0
    """seed of the split of that data into training, validation and test data"""
    device: str = "cpu"
    """device of a model from elsewhere"""
    out: Path | None = None
    """a new folder for the results of a model from elsewhere; unset: they are only printed"""

    def load(self) -> TrainedModel:
        """Load the model and its data.

        Raises:
            ConfigError: an option is missing, or does not apply.
        """
        elsewhere = self.run.endswith((".pt2", ".onnx")) or self.weights is not None or _names_a_function(self.run)
        if not elsewhere:
            folder = RunFolder(self.run)
            for name in ("label", "out") if folder.exists() else ("data", "label", "out"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name}: a run's folder has its own, got {getattr(self, name)} for {self.run}: leave --{name} "
                        "out, or give a .pt2 file, or package.module:function with --weights, instead of the folder"
                    )
            return load_run(folder, source=self.data)
        if self.data is None:
            raise ConfigError(
                f"data: expected the inputs that {self.run} is about, such as digits or a file: use --data"
            )
        config = TrainConfig(
            data=self.data,
            label=self.label,
            task=self.task,
            scaling=self.scaling,
            split_seed=self.split_seed,
            device=self.device,
        )
        return load_elsewhere(
            self.run, load_data(config), weights=self.weights, activation=self.activation, out=self.out
        )


def _names_a_function(run: str) -> bool:
    return ":" in run and not Path(run).is_dir()
