"""Comparison of several configurations on the same data: a row for each configuration and seed, and their summary."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cheaplip.data import Data
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.naming import run_name
from cheaplip.tracking import Tracker
from cheaplip.trained.certify import certify
from cheaplip.trained.evaluate import evaluate, robust_key
from cheaplip.trained.loading import load_run
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import Progress, train
from cheaplip.training.tasks import TASKS

__all__ = ["Attack", "Summary", "compare", "summarise"]

_SECONDS = 10.0  # for both ends of a bracket, about: less than for a single model, as there are many


@dataclass(frozen=True)
class Attack:
    """An attack of a comparison.

    Attributes:
        name: a name from :data:`cheaplip.robustness.ATTACKS`.
        epsilon: its radius, or for noise the standard deviation.
        samples: how many test inputs to attack. None: all.
    """

    name: str
    epsilon: float
    samples: int | None = None


def compare(
    configs: Mapping[str, TrainConfig],
    seeds: Sequence[int],
    data: Data,
    out: Path,
    *,
    attacks: Sequence[Attack],
    certify_at: Sequence[float] = (),
    progress: Callable[[str], Progress] | None = None,
    attacking: Callable[[str, str, int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    trackers: Callable[[RunFolder], Sequence[Tracker]] = lambda _: (),
) -> list[dict[str, Any]]:
    """Train and attack every configuration with every seed.

    Finished runs and attacks are kept, and an interrupted run continues, so that calling this again does only what is
    missing.

    Args:
        configs: the configurations, by their names in the table.
        seeds: the seeds to train each configuration with.
        data: the data of all runs.
        out: the folder of the comparison; the folder of a run is ``out/NAME-seedN``.
        attacks: the attacks to measure.
        certify_at: radii to certify at; empty: nothing is certified.
        progress: makes the progress callback of a training from the run's name.
        attacking: called with (run, attack, inputs done, inputs in all).
        stop: see :func:`cheaplip.training.run.train`.
        overwrite: replace the runs that are there already.
        trackers: makes the trackers of a training from its folder.

    Returns:
        The rows of ``results.json``.

    Raises:
        RunError: ``out`` holds something else than a comparison, or another process holds its lock.
    """
    with RunFolder(out).locked():
        _prepare(out, [out / run_name(name, seed) for name in configs for seed in seeds], overwrite=overwrite)
        return _compare(configs, seeds, data, out, attacks, progress, attacking, stop, certify_at, trackers)


def _prepare(out: Path, runs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse a folder that holds something else than a comparison; with ``overwrite`` delete the files of the runs."""
    if overwrite:
        for run in map(RunFolder, runs):
            with run.locked():
                run.create(overwrite=True)
        RunFolder(out).create(overwrite=True)
    elif not any(out.glob("*-seed*/config.json")):
        RunFolder(out).create()


def _compare(
    configs: Mapping[str, TrainConfig],
    seeds: Sequence[int],
    data: Data,
    out: Path,
    attacks: Sequence[Attack],
    progress: Callable[[str], Progress] | None,
    attacking: Callable[[str, str, int, int], None] | None,
    stop: Callable[[], bool],
    certify_at: Sequence[float],
    trackers: Callable[[RunFolder], Sequence[Tracker]],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    table = RunFolder(out)
    for seed in seeds:
        for name, unseeded in configs.items():
            config = replace(unseeded, seed=seed)
            run = run_name(name, seed)
            folder = RunFolder(out / run)
            metrics = train(
                config,
                data,
                folder,
                resume=folder.exists(),
                progress=None if progress is None else progress(run),
                stop=stop,
                trackers=trackers(folder),
            )
            for attack in attacks:
                key, samples = robust_key(attack.name, attack.epsilon), len(data.test.x[: attack.samples])
                if metrics.get("robust_samples", {}).get(key) != samples:
                    report = None if attacking is None else _prefixed(attacking, run)
                    metrics = evaluate(
                        folder,
                        attacks=[attack.name],
                        epsilons=[attack.epsilon],
                        samples=attack.samples,
                        data=data,
                        progress=report,
                    )
            if any(str(float(epsilon)) not in metrics["certified"] for epsilon in certify_at):
                metrics = certify(load_run(folder, data), epsilons=certify_at, seconds=_SECONDS)
            steered = config.method_class.steered
            rows.append(
                {"name": name, "method": config.method, "target": config.steered_to if steered else None, **metrics}
            )
            table.write_rows(rows)
    return rows


@dataclass(frozen=True)
class Summary:
    """The figures of a configuration over its seeds.

    Attributes:
        name: the name of the configuration.
        seeds: the number of seeds.
        columns: for each figure its mean and its sample standard deviation (None for one seed).
    """

    name: str
    seeds: int
    columns: dict[str, tuple[float, float | None]]


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """Summarise the rows of a comparison over seeds, by configuration in order of first appearance."""
    summaries = []
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = [_figures(row) for row in rows if row["name"] == name]
        shared = [key for key in runs[0] if all(run.get(key) is not None for run in runs)]
        columns = {}
        for key in shared:
            values = [run[key] for run in runs]
            columns[key] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
        summaries.append(Summary(name, len(runs), columns))
    return summaries


def _figures(row: dict[str, Any]) -> dict[str, float]:
    main = next(row[task.figure] for task in TASKS.values() if task.figure in row)
    return {
        "train": main["train"],
        "test": main["test"],
        **row["robust"],
        **{f"certified@{key}": value for key, value in row["certified"].items()},
        "lower": row["lipschitz"]["lower"],
        "upper": row["lipschitz"].get("upper"),
        "tracking": row.get("tracking"),
        "lam": row.get("lam"),
        "seconds_per_epoch": row["seconds_per_epoch"],
    }


def _prefixed(attacking: Callable[[str, str, int, int], None], name: str) -> Callable[[str, int, int], None]:
    return lambda attack, done, total: attacking(name, attack, done, total)
