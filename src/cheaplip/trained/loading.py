"""``TrainedModel``: a model with the data it is about, loaded from a run or from elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cheaplip.data import Data, Recipe, load
from cheaplip.errors import ConfigError, DataError, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.weights import load_program, load_weights
from cheaplip.trained.display import plot_history, run_table
from cheaplip.trained.onnx_files.model import load_onnx
from cheaplip.training.config import TrainConfig, from_json
from cheaplip.training.models import Activation, build, check_model

__all__ = ["TrainedModel", "load_data", "load_elsewhere", "load_run", "load_trained", "read_recipe"]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model in evaluation mode, its data on the same device, and the folder for results about it.

    Attributes:
        name: its name, for tables.
        model, data: the model and the data; they fit each other.
        folder: the folder of the run. For a model from elsewhere a new folder, or None: results are not kept.
        config: the options of the run. None: a model from elsewhere.
    """

    name: str
    model: nn.Module
    data: Data
    folder: RunFolder | None
    config: TrainConfig | None = None

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the run so far; of a model from elsewhere, an empty dictionary."""
        return {} if self.config is None or self.folder is None else self.folder.read_json("metrics.json")

    def __repr__(self) -> str:
        model, folder = type(self.model).__name__, None if self.folder is None else str(self.folder.path)
        return f"TrainedModel({self.name!r}, model={model}, data={self.data.name!r}, folder={folder!r})"

    def _repr_html_(self) -> str:
        return run_table(self.name, self.metrics())

    def plot(self, ax: Any = None) -> Any:
        """Draw the run's figures over its epochs on axes of matplotlib, or on new ones, and return them."""
        return plot_history([] if self.folder is None else self.folder.history(), ax)


def load_run(folder: RunFolder | str | Path, data: Data | None = None, *, source: str | None = None) -> TrainedModel:
    """Load the model of a finished run.

    Args:
        folder: the folder of the run, or its path.
        data: its data. None: it is loaded as well.
        source: where its data are now, if they have moved.

    Raises:
        TypeError: ``folder`` is neither.
        RunError: there is no finished run, or its weights do not fit its model.
        DataError: its data cannot be loaded, or have changed so that its rows are no longer there.
    """
    if not isinstance(folder, RunFolder):
        if not isinstance(folder, str | Path):
            raise TypeError(f"folder: expected the path of a run's folder, got {type(folder).__name__}")
        folder = RunFolder(folder)
    folder.read_json("metrics.json")
    config = from_json(folder.read_json("config.json"))
    config.check_device()
    if data is None:
        data = load_data(config, folder, source)
    return TrainedModel(folder.path.name, load_trained(folder, config, data), data, folder, config)


def load_elsewhere(
    model: str,
    data: Data,
    *,
    weights: Path | None = None,
    activation: Activation = "sigmoid",
    out: Path | None = None,
) -> TrainedModel:
    """Load a model that is not the result of a run.

    Args:
        model: a ``.pt2`` file of torch.export or a ``.onnx`` file, which hold their weights, or a name for
            :func:`cheaplip.training.models.build`, such as ``package.module:function``.
        data: the data it is about.
        weights: the weights of a model given by name, see :func:`cheaplip.runs.weights.load_weights`.
        activation: the activation of a model by name.
        out: a new folder for the results. None: they are not kept.

    Raises:
        ConfigError: weights are missing, or given for a file that holds its own.
        ModelError: the model or its weights cannot be loaded, or do not fit the data.
        RunError: ``out`` is not empty.
    """
    loaded: nn.Module
    if (kind := Path(model).suffix) in (".pt2", ".onnx"):
        if weights is not None:
            raise ConfigError(f"weights: a {kind} file holds its own, got {weights} as well: leave it out")
        loaded = load_program(Path(model), data.shape) if kind == ".pt2" else load_onnx(Path(model))
        check_model(loaded, model, data.shape, data.outputs)
    else:
        if weights is None:
            raise ConfigError(
                f"weights: expected the file that holds those of {model}, a .safetensors file or a state dict: "
                "use --weights FILE"
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
    name = Path(model).stem if kind in (".pt2", ".onnx") else model
    return TrainedModel(name, loaded.to(data.train.x.device).eval(), data.with_labels_in_units(), folder)


def load_data(config: TrainConfig, folder: RunFolder | None = None, source: str | None = None) -> Data:
    """Load the data that a configuration names, onto its device.

    Args:
        config: the configuration.
        folder: the folder of a run: its data are read, split and scaled as they were when it was trained. None: they
            are read for the first time.
        source: where the data are now, if they have moved.

    Raises:
        DataError: the data cannot be loaded or used.
    """
    recipe = None if folder is None else read_recipe(folder)
    try:
        data = load(
            source or config.data,
            label=config.label,
            task=config.task,
            scaling=config.scaling,
            split_seed=config.split_seed,
            reading=config.reading,
            recipe=recipe,
        )
    except DataError as error:
        if folder is None or source is not None or Path(config.data).exists() or ":" in config.data:
            raise
        raise DataError(f"{error}; if the data of the run {folder.path} have moved, name them with --data") from error
    return data.to(config.resolved_device)


def read_recipe(folder: RunFolder) -> Recipe | None:
    """Read how the data of a run were read; None for a run that did not write it down, as those of version 0.1.0.

    Raises:
        RunError: the file cannot be read.
        DataError: it holds something else.
    """
    return Recipe.from_json(folder.read_json("data.json")) if (folder.path / "data.json").is_file() else None


def load_trained(folder: RunFolder, config: TrainConfig, data: Data) -> nn.Module:
    """Load the trained model of a run, in evaluation mode, onto the data's device.

    Raises:
        RunError: there is no finished run, or its weights do not fit its model.
    """
    model = config.build_model(data)
    folder.load_model(model)
    return model.to(data.train.x.device).eval()
