"""What a report shows of a model beyond its figures, as plain data: the witness pair, the answers to test inputs."""

from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import distance
from cheaplip.training.tasks import task_of

__all__ = ["exhibits"]

_MOST = 20_000  # values of an input beyond which the pair is left out: the file is for looking at
_DIGITS = 6  # significant; witness.safetensors holds the exact pair


def exhibits(model: nn.Module, data: Data, witness: tuple[Tensor, Tensor], quotient: float) -> dict[str, Any]:
    """The content of ``report.json``.

    Args:
        model: on the data's device.
        data: its test part is what the model answers.
        witness: the pair with the largest quotient found, of the data's shape.
        quotient: theirs, as found in float64.

    Returns:
        ``witness``: the pair ``u``, ``v`` (flat, unless larger than 20,000 values), its ``shape``, the box's ``low``
        and ``high`` ends, the ``outputs`` at both, their ``distance`` and ``quotient``. What the task adds:
        ``confusion``, a list for each true class with the number of test inputs given to each class; or ``answers``,
        labels and predictions of a regression. Where the data have them: names of ``classes`` and ``features``, the
        ``scaling`` of these.
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
    if u.numel() <= _MOST:
        pair |= {"u": _rounded(u), "v": _rounded(v)}
    names: dict[str, Any] = {
        "classes": list(data.class_names),
        "features": list(data.feature_names),
        "scaling": None if data.scaling is None else "standard",
    }
    named = {name: value for name, value in names.items() if value}
    return {"witness": pair, **task_of(data).exhibits(model, *data.test, data.outputs), **named}


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.flatten().tolist()]
