"""What is left of a training when it ends: weights, steepest pair, figures."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.runs.folder import RunFolder
from cheaplip.training.config import TrainConfig
from cheaplip.training.exhibits import exhibits
from cheaplip.training.tasks import task_of

__all__ = ["finish"]


def finish(
    folder: RunFolder,
    config: TrainConfig,
    data: Data,
    model: nn.Module,
    *,
    lower: float,
    witness: tuple[Tensor, Tensor],
    lam: float | None,
    history: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Write a finished run's files but its checkpoint; returns its metrics.

    Args:
        folder: of the run.
        config, data: of the run.
        model: trained.
        lower, witness: the largest quotient found, and its pair.
        lam: λ at the end. None: the method has none.
        history: of all epochs.
    """
    folder.save_model(model)
    folder.save_witness(*witness)
    folder.write_json("report.json", exhibits(model, data, witness, lower))
    metrics = {
        **task_of(data).metrics(model, {"train": data.train, "validation": data.validation, "test": data.test}),
        "robust": {},
        "certified": {},
        "lipschitz": {"lower": lower},
        **_tracking(history),
        **({} if lam is None else {"lam": lam}),
        "epochs": len(history),
        "seconds_per_epoch": sorted(line["seconds"] for line in history)[len(history) // 2],
        "seed": config.seed,
    }
    folder.write_json("metrics.json", metrics)
    return metrics


def _tracking(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Largest quotient of the pairs (mean of an epoch's last tenth) over the one found, mean of the last third."""
    ratios = [line["tracking"] for line in history[2 * len(history) // 3 :] if line.get("tracking") is not None]
    return {"tracking": sum(ratios) / len(ratios)} if ratios else {}
