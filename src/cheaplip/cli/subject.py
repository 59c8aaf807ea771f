"""The options that name a trained model: a run, or a model from elsewhere with its weights and its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.options import load_data
from cheaplip.data.scaling import Scaling
from cheaplip.errors import ConfigError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.subject import Subject, of_model, of_run
from cheaplip.training.config import TrainConfig
from cheaplip.training.models import Activation

__all__ = ["SubjectOptions"]


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """Which model, and for one from elsewhere, of which weights and on which data."""

    run: Annotated[str, tyro.conf.Positional]
    """a run's folder; with --data also a .pt2 file of torch.export (from where you trust), or a model by name, such as
    package.module:function or mlp:200,80, with --weights"""
    weights: Path | None = None
    """of a model by name: a .safetensors file, or a state dict written by torch.save"""
    activation: Activation = "sigmoid"
    """of a model by name, mlp or cnn"""
    data: str | None = None
    """of a model from elsewhere, as in train: its inputs, its domain, its test part"""
    label: str | None = None
    """the label's column in a CSV file"""
    task: str = "classification"
    """of that data: classification or regression"""
    scaling: Scaling = "none"
    """of that data's features; standard if the model was trained on standardised ones"""
    split_seed: int = 0
    """of that data's train/validation/test split"""
    device: str = "cpu"
    """of a model from elsewhere"""
    out: Path | None = None
    """a new folder for the results of a model from elsewhere; unset: they are only printed"""

    def subject(self) -> Subject:
        """Load what the options name."""
        elsewhere = self.run.endswith(".pt2") or self.weights is not None or _names_a_function(self.run)
        if not elsewhere:
            for name in ("data", "label", "out"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name}: a run's folder has its own, got {getattr(self, name)} for {self.run}: leave --{name} "
                        "out, or name a .pt2 file, or package.module:function with --weights"
                    )
            return of_run(RunFolder(self.run))
        if self.data is None:
            raise ConfigError(
                f"data: expected the inputs that {self.run} is about, such as digits or a file: say --data"
            )
        config = TrainConfig(
            data=self.data,
            label=self.label,
            task=self.task,
            scaling=self.scaling,
            split_seed=self.split_seed,
            device=self.device,
        )
        return of_model(self.run, load_data(config), weights=self.weights, activation=self.activation, out=self.out)


def _names_a_function(run: str) -> bool:
    return ":" in run and not Path(run).is_dir()
