"""Export of a trained model to one file that works without cheaplip, ``.pt2`` (torch.export) or ONNX, and its card."""

import hashlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.data.scaling import Scaler
from cheaplip.domain import Box
from cheaplip.errors import RunError
from cheaplip.model import call_on_copy
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.trained.loading import load_run
from cheaplip.training.config import TrainConfig
from cheaplip.training.options import check_choice
from cheaplip.training.tasks import task_of

__all__ = ["EXPORTED", "Format", "agree", "export", "for_the_source", "model_card", "run_onnx"]

EXPORTED = ("model.onnx", "model.pt2")
"""Names of exported files in a run's folder."""

Format = Literal["pt2", "onnx"]

_CHECKED = 64  # test inputs for which the outputs of the file and of the model are compared
_ROUNDING = 1e-2  # of an input in its own scale, from which float32 is too coarse for the inputs of the source
_TOLERANCE = 1e-4  # relative to the largest output; runtimes sum in different orders


def export(folder: RunFolder, format: Format = "pt2", *, source: str | None = None) -> Path:  # noqa: A002 - the word of the command line
    r"""Write ``model.pt2`` or ``model.onnx`` and ``model-card.json`` into a run's folder.

    The exported model takes inputs (B, \*shape), for any B, and returns logits (B, classes) or predictions (B, k). If
    inputs were scaled for training, it takes those of the source and scales them itself; ``model-card.json`` says so.
    Its predictions of several labels are in the units of the source, too. The file is read back and its outputs are
    compared with the model's.

    Args:
        folder: the folder of a finished run.
        source: where the run's data are now, if they have moved.
        format: ``"pt2"``: for ``torch.export.load``; ``"onnx"``: for onnxruntime and other runtimes.

    Returns:
        The path of the file.

    Raises:
        RunError: there is no finished run, or its model cannot be exported.
        ImportError: the packages for ONNX are missing.
    """
    check_choice("format", format, get_args(Format))
    trained = load_run(folder, source=source)
    config, data, metrics = trained.config, trained.data.to("cpu"), trained.metrics()
    assert config is not None
    model, x = for_the_source(trained.model.cpu(), data)
    path = folder.path / f"model.{format}"
    try:
        with torch.no_grad():
            exported = (
                _write_pt2(model, x, path)
                if format == "pt2"
                else _write_onnx(model, x, path, task_of(data).output_name)
            )
            expected = call_on_copy(model, x)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise RunError(f"cannot export the model of {folder.path} as {format}: {str(error).splitlines()[0]}") from error
    for rows in (1, len(x)):  # the file must take batches of any size
        if not agree(exported(x[:rows]), expected[:rows], data):
            path.unlink()
            raise RunError(f"the outputs of {path} differ from the model's: do not use its {format} export")
    files = {name: digest for name in EXPORTED if (digest := _digest(folder, name))}
    folder.write_json("model-card.json", {**model_card(config, data), "metrics": metrics, "files": files})
    return path


def model_card(config: TrainConfig, data: Data) -> dict[str, Any]:
    """Return what ``model-card.json`` says of an exported model, apart from metrics and hashes."""
    x, domain = _raw_inputs(data)
    scaling: dict[str, Any] | None = None
    if (scaler := data.from_source) is not None:
        scaling = {name: value.tolist() for name, value in scaler.state_dict().items()}
        scaling["meaning"] = "the file takes (x - mean) / deviation itself; metrics are of inputs scaled so"
    return {
        "input": {
            "shape": ["batch", *data.shape],
            "dtype": str(x.dtype).removeprefix("torch."),
            "domain": repr(domain),
        },
        **_columns(data),
        "scaling": scaling,
        **_label_scaling(data),
        "output": {"shape": ["batch", data.outputs], "meaning": task_of(data).output_meaning},
        "data": config.data,
        "method": config.method,
        "model": config.model,
        "versions": versions(),
    }


class _InUnits(nn.Module):
    """Predictions of several labels in the units of the source."""

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        self.scaler = scaler

    def forward(self, y: Tensor) -> Tensor:
        return self.scaler.inverse(y)


def for_the_source(model: nn.Module, data: Data) -> tuple[nn.Module, Tensor]:
    """Return the model of the source's features and labels, and test inputs by which a file is compared with it."""
    x, _ = _raw_inputs(data)
    before = [] if data.from_source is None else [data.from_source]
    after = [] if data.label_scaling is None else [_InUnits(data.label_scaling)]
    return (nn.Sequential(*before, model, *after).eval() if before or after else model), x


def agree(outputs: Tensor, expected: Tensor, data: Data) -> bool:
    """Return whether outputs of a file are those of the model, up to the order in which a runtime sums.

    Args:
        outputs, expected: (B, outputs), in the units of the source.
        data: the data; outputs in different units are compared in their standard deviations.
    """
    if outputs.shape == expected.shape and data.label_scaling is not None:
        outputs, expected = (data.label_scaling(y.double()) for y in (outputs, expected))
    return outputs.shape == expected.shape and bool(
        (outputs - expected).abs().max() <= _TOLERANCE * expected.abs().max()
    )


def _raw_inputs(data: Data) -> tuple[Tensor, Box]:
    """Return some test inputs and the domain in the units of the source, in float64 where float32 would lose digits."""
    x = data.test.x[:_CHECKED]
    if (scaler := data.from_source) is None:
        return x, data.domain
    x, low, high = (scaler.inverse(value.double()) for value in (x, data.domain.low, data.domain.high))
    lost = bool((low.float() >= high.float()).any()) or bool((scaler(x.float()) - scaler(x)).abs().max() > _ROUNDING)
    return (x if lost else x.float()), Box(low, high)


def _columns(data: Data) -> dict[str, Any]:
    """Return what the features of a table are, and the classes' names."""
    named = {"features": list(data.feature_names), "classes": list(data.class_names)}
    return {name: names for name, names in named.items() if names}


def _label_scaling(data: Data) -> dict[str, Any]:
    """Return how several labels in different units were scaled."""
    if (scaler := data.label_scaling) is None:
        return {}
    meaning = "the file returns output * deviation + mean itself; metrics are in deviations of each label"
    return {"labels": {**{name: value.tolist() for name, value in scaler.state_dict().items()}, "meaning": meaning}}


def _digest(folder: RunFolder, name: str) -> str:
    return hashlib.sha256(folder.read_bytes(name)).hexdigest() if (folder.path / name).is_file() else ""


def _write_pt2(model: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    torch.export.save(program, path)
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return loaded


def _write_onnx(model: nn.Module, x: Tensor, path: Path, output: str) -> Callable[[Tensor], Tensor]:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ImportError(f"export to onnx needs {', '.join(missing)}: pip install 'cheaplip[onnx]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of the exporter
        torch.onnx.export(
            model,
            (x,),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            output_names=[output],
        )
    return run_onnx(path)


def run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Load an ONNX file into onnxruntime.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
