"""The bracket of a trained model, kept in its folder."""

import math
from collections.abc import Callable
from typing import Any

from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.trained.subject import Subject
from cheaplip.training.exhibits import exhibits

__all__ = ["bracket_subject", "join"]


def bracket_subject(
    subject: Subject,
    *,
    norm: float = 2,
    method: str | None = None,
    seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket a model on its data's domain, from its training inputs.

    In norm 2 the ends join ``metrics.json`` in its folder as ``lipschitz``, where the lower one is only ever raised,
    with its witness in ``witness.safetensors`` and, of a run, for the report; the upper one is only ever lowered.

    Args:
        subject: the model, its data and its folder.
        norm, method, seconds, progress: as in :func:`cheaplip.bracket`.

    Returns:
        lower, upper, gap (None for infinity), method, norm, seconds, reason.

    Raises:
        RunError: the folder cannot be written to.
        ValueError: as in :func:`cheaplip.bracket`.
    """
    data = subject.data
    b = bracket(
        subject.model, data.domain, norm=norm, x=data.train.x, method=method, seconds=seconds, progress=progress
    )
    if norm == 2 and subject.folder is not None:
        metrics = subject.metrics()
        join(metrics, subject, b)
        subject.folder.write_json("metrics.json", metrics)
    return {
        "lower": b.lower,
        "upper": b.upper if math.isfinite(b.upper) else None,
        "gap": b.gap if math.isfinite(b.gap) else None,
        "method": b.method,
        "norm": "inf" if norm == math.inf else int(norm),
        "seconds": b.seconds,
        "reason": b.reason,
    }


def join(metrics: dict[str, Any], subject: Subject, b: Bracket) -> None:
    """Raise the lower end of ``metrics`` to the bracket's, keeping its witness, and lower the upper one."""
    known = metrics.get("lipschitz") or {}
    if b.lower > (known.get("lower") or 0.0):
        if subject.folder is not None:
            subject.folder.save_witness(*b.witness)
            if subject.config is not None:
                subject.folder.write_json("report.json", exhibits(subject.model, subject.data, b.witness, b.lower))
        known["lower"] = b.lower
    if b.upper < (known.get("upper") or math.inf):
        known["upper"], known["upper_method"] = b.upper, b.method
    metrics["lipschitz"] = known
