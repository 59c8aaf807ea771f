"""Several methods on the same data: one row each for a method and a seed, and their summary."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cheaplip.experiments.config import TrainConfig, replace
from cheaplip.experiments.data import Data
from cheaplip.experiments.evaluation import evaluate, robust_key
from cheaplip.experiments.runs import RunFolder
from cheaplip.experiments.training import Progress, train

__all__ = ["Attack", "Summary", "compare", "summarise"]


@dataclass(frozen=True)
class Attack:
    """An attack of the comparison: its name, radius and number of test inputs (None: all)."""

    name: str
    epsilon: float
    samples: int | None = None


def compare(
    configs: Sequence[TrainConfig],
    seeds: Sequence[int],
    data: Data,
    out: Path,
    *,
    attacks: Sequence[Attack],
    progress: Callable[[str], Progress] | None = None,
    attacking: Callable[[str, str, int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Train and attack every configuration with every seed; returns the rows of ``results.json``.

    Finished runs and attacks are kept, an interrupted run continues: calling it again does only what is missing.

    Args:
        configs: one for each method; their names in the table are their methods.
        seeds: each configuration is trained with each.
        data: the same for all.
        out: the folder; a run's own folder is ``out/METHOD-seedN``.
        attacks: what to measure.
        progress: makes a training's progress callback from the run's name.
        attacking: called with (run, attack, inputs done, inputs in all).
        stop: see :func:`cheaplip.experiments.training.train`.
    """
    rows: list[dict[str, Any]] = []
    table = RunFolder(out)
    for seed in seeds:
        for method_config in configs:
            config = replace(method_config, seed=seed)
            name = f"{config.method}-seed{seed}"
            folder = RunFolder(out / name)
            metrics = train(
                config,
                data,
                folder,
                resume=folder.exists(),
                progress=None if progress is None else progress(name),
                stop=stop,
            )
            for attack in attacks:
                if robust_key(attack.name, attack.epsilon) not in metrics["robust"]:
                    report = None if attacking is None else _prefixed(attacking, name)
                    metrics = evaluate(
                        folder,
                        attacks=[attack.name],
                        epsilons=[attack.epsilon],
                        samples=attack.samples,
                        data=data,
                        progress=report,
                    )
            steered = config.method in ("clip", "weight")
            rows.append(
                {"name": name, "method": config.method, "target": config.target if steered else None, **metrics}
            )
            table.write_rows(rows)
    return rows


@dataclass(frozen=True)
class Summary:
    """A method's mean over seeds, and the sample standard deviation (None for one seed), column by column."""

    method: str
    seeds: int
    columns: dict[str, tuple[float, float | None]]


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """Mean and spread over seeds of each method's clean, attacked and timed figures, in order of first appearance."""
    summaries = []
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [_figures(row) for row in rows if row["method"] == method]
        shared = [key for key in runs[0] if all(run.get(key) is not None for run in runs)]
        columns = {}
        for key in shared:
            values = [run[key] for run in runs]
            columns[key] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
        summaries.append(Summary(method, len(runs), columns))
    return summaries


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {
        "train": row["accuracy"]["train"],
        "test": row["accuracy"]["test"],
        **row["robust"],
        "lower": row["lipschitz"]["lower"],
        "lam": row["lam"],
        "seconds_per_epoch": row["seconds_per_epoch"],
    }


def _prefixed(attacking: Callable[[str, str, int, int], None], name: str) -> Callable[[str, int, int], None]:
    return lambda attack, done, total: attacking(name, attack, done, total)
