"""What a finished run leaves besides its checkpoint: weights, steepest pair, metrics, and what a report shows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import distance
from cheaplip.runs.folder import RunFolder
from cheaplip.training.aim import Aim
from cheaplip.training.config import TrainConfig
from cheaplip.training.tasks import task_of
from cheaplip.training.tasks.task import predict

__all__ = ["errors_of_outputs", "report_content", "write_results"]

_MOST_VALUES = 20_000  # of an input; the pair of larger inputs is left out of report.json, which is only for display
_DIGITS = 6  # significant digits of numbers in report.json; witness.safetensors holds the exact pair


def write_results(
    folder: RunFolder,
    config: TrainConfig,
    data: Data,
    model: nn.Module,
    *,
    lower: float,
    witness: tuple[Tensor, Tensor],
    lam: float | None,
    aim: Aim,
    history: Sequence[dict[str, Any]],
    peak_memory: int | None = None,
) -> dict[str, Any]:
    """Write the files of a finished run, except its checkpoint, and return its metrics.

    Args:
        folder: the folder of the run.
        config, data: its options and its data.
        model: the trained model.
        lower, witness: the largest quotient found, and the pair of inputs that has it.
        lam: λ at the end. None: the method has none.
        aim: what λ was steered to.
        history: the lines of all epochs.
        peak_memory: bytes that training held on the device at most. None: they were not counted.
    """
    folder.save_model(model)
    folder.save_witness(*witness)
    folder.write_json("report.json", report_content(model, data, witness, lower))
    task, parts = task_of(data), {"train": data.train, "validation": data.validation, "test": data.test}
    constant = task.constant_answer(model, [data.test, data.validation], data.class_names)
    metrics = {
        **task.metrics(model, parts),
        **errors_of_outputs(model, data),
        "robust": {},
        "certified": {},
        "lipschitz": {"lower": lower},
        **_tracking(history),
        **({} if lam is None else {"lam": lam}),
        **aim.results(),
        **({"constant_answer": constant} if constant else {}),
        "epochs": len(history),
        "seconds_per_epoch": sorted(line["seconds"] for line in history)[len(history) // 2],
        **({} if peak_memory is None else {"peak_memory": peak_memory}),
        "seed": config.seed,
    }
    folder.write_json("metrics.json", metrics)
    return metrics


def report_content(model: nn.Module, data: Data, witness: tuple[Tensor, Tensor], quotient: float) -> dict[str, Any]:
    """Return the content of ``report.json``: what a report shows of a model beyond its metrics.

    Args:
        model: the trained model, on the data's device.
        data: the data; the model's predictions for its test part are shown.
        witness: the pair of inputs with the largest quotient found, each of the data's shape.
        quotient: its quotient, computed in float64.

    Returns:
        ``witness``: the pair ``u``, ``v`` (flat; left out if larger than 20,000 values), its ``shape``, the ``low`` and
        ``high`` ends of the box, the ``outputs`` at both inputs, their ``distance`` and ``quotient``. For
        classification ``confusion``: a list for each true class with the number of test inputs predicted as each class.
        For regression ``answers``: labels and predictions, in the labels' units. Where the data has them: the names of
        ``classes`` and ``features``, and the ``scaling`` of the features.
    """
    u, v = (point.detach().double().cpu() for point in witness)
    with torch.no_grad(), evaluation_mode(model):
        inputs = torch.stack([u, v]).to(data.test.x)
        fu, fv = model(inputs).double().cpu()
    pair: dict[str, Any] = {
        "shape": list(data.shape),
        "low": float(data.domain.low.min()),
        "high": float(data.domain.high.max()),
        "distance": float(distance((u - v)[None])),
        "quotient": quotient,
        "outputs": {"u": _rounded(fu), "v": _rounded(fv)},
    }
    if u.numel() <= _MOST_VALUES:
        pair |= {"u": _rounded(u), "v": _rounded(v)}
    names: dict[str, Any] = {
        "classes": list(data.class_names),
        "features": list(data.feature_names),
        "scaling": None if data.standardisation is None else data.scaling,
    }
    named = {name: value for name, value in names.items() if value}
    shown = task_of(data).report_content(model, *data.test, data.outputs)
    if (scaler := data.label_scaling) is not None:
        in_units = {
            name: scaler.inverse(torch.tensor(several).T.to(scaler.mean)) for name, several in shown["answers"].items()
        }
        shown["answers"] = {name: values.T.tolist() for name, values in in_units.items()}
    return {"witness": pair, **shown, **named}


def errors_of_outputs(model: nn.Module, data: Data) -> dict[str, dict[str, list[float]]]:
    """Return the error (RMSE) of each of several outputs, in its own units, on each part of the data."""
    if (scaler := data.label_scaling) is None:
        return {}
    found = {}
    with evaluation_mode(model):
        for name, (x, y) in {"train": data.train, "validation": data.validation, "test": data.test}.items():
            errors = (predict(model, x).double() - y.double()) * scaler.deviation
            found[name] = errors.square().mean(dim=0).sqrt().tolist()
    return {"rmse_of_outputs": found}


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.flatten().tolist()]


def _tracking(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how close the training pairs come to the largest quotient: their ratio, averaged over the last third.

    In each epoch the pairs' quotient is averaged over the last tenth of the steps.
    """
    ratios = [line["tracking"] for line in history[2 * len(history) // 3 :] if line.get("tracking") is not None]
    return {"tracking": sum(ratios) / len(ratios)} if ratios else {}
