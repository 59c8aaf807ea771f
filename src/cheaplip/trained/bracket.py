"""The bracket of a trained model: lower ≤ Lip(f) ≤ upper, kept in its folder."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cheaplip.domain import Domain
from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.trained.loading import TrainedModel
from cheaplip.trained.onnx_files.model import load_onnx
from cheaplip.training.results import report_content

__all__ = ["SECONDS", "bracket_model", "bracket_onnx", "record_bracket"]

SECONDS = 30.0
"""Default time for computing both ends of a bracket, about, in seconds."""


def bracket_model(
    trained: TrainedModel,
    *,
    norm: float = 2,
    method: str | None = None,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket the Lipschitz constant of a model on its data's domain; the search starts at its training inputs.

    In norm 2 both ends are recorded in the model's folder, see :func:`record_bracket`.

    Args:
        trained: the model, its data and its folder.
        norm, method, seconds, progress: as in :func:`cheaplip.bracket`.

    Returns:
        ``lower``, ``upper``, ``gap`` (None for infinity), ``method``, ``norm``, ``seconds`` and ``reason``;
        with a method that estimates the constant also ``estimate``, with its ``name``, ``value`` and ``largest``.

    Raises:
        RunError: the folder cannot be written to.
        ValueError: as in :func:`cheaplip.bracket`.
    """
    data = trained.data
    b = bracket(
        trained.model, data.domain, norm=norm, x=data.train.x, method=method, seconds=seconds, progress=progress
    )
    if norm == 2 and trained.folder is not None:
        metrics = trained.metrics()
        record_bracket(metrics, trained, b)
        trained.folder.write_json("metrics.json", metrics)
    return _figures(b, norm)


def bracket_onnx(
    path: Path,
    *,
    domain: Domain | None = None,
    norm: float = 2,
    method: str | None = None,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket the Lipschitz constant of the model in an ONNX file, without data.

    Args:
        path: the file.
        domain: where inputs live. None: all of space.
        norm, method, seconds, progress: as in :func:`cheaplip.bracket`.

    Returns:
        As :func:`bracket_model`.

    Raises:
        ModelError: the file holds no model that is read.
        ValueError: as in :func:`cheaplip.bracket`.
    """
    model = load_onnx(path)
    b = bracket(model, domain, norm=norm, shape=model.shape, method=method, seconds=seconds, progress=progress)
    return _figures(b, norm)


def _figures(b: Bracket, norm: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "lower": b.lower,
        "upper": b.upper if math.isfinite(b.upper) else None,
        "gap": b.gap if math.isfinite(b.gap) else None,
        "method": b.method,
        "norm": "inf" if norm == math.inf else int(norm),
        "seconds": b.seconds,
        "reason": b.reason,
    }
    if b.estimate is not None:
        found["estimate"] = {
            name: value if isinstance(value, str) or math.isfinite(value) else None
            for name, value in b.estimate._asdict().items()
        }
    return found


def record_bracket(metrics: dict[str, Any], trained: TrainedModel, b: Bracket) -> None:
    """Record a bracket where it improves on what is known: the larger lower end and the smaller upper end count.

    With a new lower end, ``witness.safetensors`` is written and, for a run, ``report.json``.

    Args:
        metrics: the metrics of the model, whose entry ``lipschitz`` is changed; they are not written.
        trained: the model.
        b: its bracket in norm 2.
    """
    known = metrics.get("lipschitz") or {}
    if b.lower > (known.get("lower") or 0.0):
        if trained.folder is not None:
            trained.folder.save_witness(*b.witness)
            if trained.config is not None:
                content = report_content(trained.model, trained.data, b.witness, b.lower)
                trained.folder.write_json("report.json", content)
        known["lower"] = b.lower
    if b.upper < (known.get("upper") or math.inf):
        known["upper"], known["upper_method"] = b.upper, b.method
    metrics["lipschitz"] = known
