"""Export of a trained model to one file that works without cheaplip, ``.pt2`` (torch.export) or ONNX, and its card."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cheaplip.domain import Box
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.trained.loading import load_run
from cheaplip.training.options import check_choice
from cheaplip.training.tasks import task_of

__all__ = ["Format", "export"]

Format = Literal["pt2", "onnx"]

_CHECKED = 64  # test inputs for which the outputs of the file and of the model are compared
_TOLERANCE = 1e-4  # relative to the largest output; runtimes sum in different orders


def export(folder: RunFolder, format: Format = "pt2") -> Path:  # noqa: A002 - the word of the command line
    r"""Write ``model.pt2`` or ``model.onnx`` and ``model-card.json`` into a run's folder.

    The exported model takes inputs (B, \*shape), for any B, and returns logits (B, classes) or predictions (B, k). If
    features were standardised for training, it takes the original features and standardises them itself. The file is
    read back and its outputs are compared with the model's.

    Args:
        folder: the folder of a finished run.
        format: ``"pt2"``: for ``torch.export.load``; ``"onnx"``: for onnxruntime and other runtimes.

    Returns:
        The path of the file.

    Raises:
        RunError: there is no finished run, or its model cannot be exported.
        ImportError: the packages for ONNX are missing.
    """
    check_choice("format", format, get_args(Format))
    trained = load_run(folder)
    config, data, metrics = trained.config, trained.data.to("cpu"), trained.metrics()
    assert config is not None
    task = task_of(data)
    model, x, domain = trained.model.cpu(), data.test.x[:_CHECKED], data.domain
    scaling: dict[str, Any] | None = None
    if (standardisation := data.standardisation) is not None:
        model, x = nn.Sequential(standardisation, model).eval(), standardisation.inverse(x)
        domain = Box(standardisation.inverse(domain.low), standardisation.inverse(domain.high))
        scaling = {name: value.tolist() for name, value in standardisation.state_dict().items()}
        scaling["meaning"] = "the file takes (x - mean) / deviation itself; metrics are of inputs scaled so"
    path = folder.path / f"model.{format}"
    try:
        with torch.no_grad():
            exported = _write_pt2(model, x, path) if format == "pt2" else _write_onnx(model, x, path, task.output_name)
            expected = model(x)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise RunError(f"cannot export the model of {folder.path} as {format}: {str(error).splitlines()[0]}") from error
    for rows in (1, len(x)):  # the file must take batches of any size
        if (exported(x[:rows]) - expected[:rows]).abs().max() > _TOLERANCE * expected.abs().max():
            path.unlink()
            raise RunError(f"the outputs of {path} differ from the model's: do not use its {format} export")
    folder.write_json(
        "model-card.json",
        {
            "input": {"shape": ["batch", *data.shape], "dtype": "float32", "domain": repr(domain)},
            "scaling": scaling,
            "output": {"shape": ["batch", data.outputs], "meaning": task.output_meaning},
            "data": config.data,
            "method": config.method,
            "model": config.model,
            "metrics": metrics,
            "versions": versions(),
        },
    )
    return path


def _write_pt2(model: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    torch.export.save(program, path)
    loaded: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return loaded


def _write_onnx(model: nn.Module, x: Tensor, path: Path, output: str) -> Callable[[Tensor], Tensor]:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ImportError(f"export to onnx needs {', '.join(missing)}: pip install 'cheaplip[onnx]'")
    import onnxruntime

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
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
