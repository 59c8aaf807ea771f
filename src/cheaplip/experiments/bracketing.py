"""The bracket of a finished run's model, kept in the run's folder."""

import math
from collections.abc import Callable
from typing import Any

from cheaplip.bracket import Bracket, bracket
from cheaplip.experiments.config import from_json
from cheaplip.experiments.data import load
from cheaplip.experiments.runs import RunFolder
from cheaplip.experiments.training import load_trained

__all__ = ["bracket_run", "join"]


def bracket_run(
    folder: RunFolder,
    *,
    norm: float = 2,
    method: str | None = None,
    seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket the run's model on its data's domain, from its training inputs.

    In norm 2 the ends join ``metrics.json`` as ``lipschitz``, where the lower one is only ever raised, with its witness
    in ``witness.safetensors``, and the upper one only ever lowered.

    Args:
        folder: of a finished run.
        norm, method, seconds, progress: as in :func:`cheaplip.bracket`.

    Returns:
        lower, upper, gap (None for infinity), method, norm, seconds, reason.

    Raises:
        RunError: the folder is not a finished run's.
        ValueError: as in :func:`cheaplip.bracket`.
    """
    metrics = folder.read_json("metrics.json")
    config = from_json(folder.read_json("config.json"))
    config.check_device()
    data = load(config.data, label=config.label, split_seed=config.split_seed).to(config.resolved_device)
    model = load_trained(folder, config, data)
    b = bracket(model, data.domain, norm=norm, x=data.train.x, method=method, seconds=seconds, progress=progress)
    if norm == 2:
        join(metrics, folder, b)
        folder.write_json("metrics.json", metrics)
    return {
        "lower": b.lower,
        "upper": b.upper if math.isfinite(b.upper) else None,
        "gap": b.gap if math.isfinite(b.gap) else None,
        "method": b.method,
        "norm": "inf" if norm == math.inf else int(norm),
        "seconds": b.seconds,
        "reason": b.reason,
    }


def join(metrics: dict[str, Any], folder: RunFolder, b: Bracket) -> None:
    """Raise the lower end of ``metrics`` to the bracket's, keeping its witness, and lower the upper one."""
    known = metrics.get("lipschitz") or {}
    if b.lower > (known.get("lower") or 0.0):
        folder.save_witness(*b.witness)
        known["lower"] = b.lower
    if b.upper < (known.get("upper") or math.inf):
        known["upper"], known["upper_method"] = b.upper, b.method
    metrics["lipschitz"] = known
