"""Several methods on the same data: one row each for a method and a seed, and their summary."""

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
from cheaplip.trained.subject import of_run
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import Progress, train

__all__ = ["Attack", "Summary", "compare", "run_name", "summarise"]

_SEARCH = 10.0  # seconds for the lower end of a bracket, about


@dataclass(frozen=True)
class Attack:
    """An attack of the comparison: its name, radius and number of test inputs (None: all)."""

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
    """Train and attack every configuration with every seed; returns the rows of ``results.json``.

    Finished runs and attacks are kept, an interrupted run continues: calling it again does only what is missing.

    Args:
        configs: by the name they have in the table.
        seeds: each configuration is trained with each.
        data: the same for all.
        out: the folder; a run's own folder is ``out/NAME-seedN``.
        attacks: what to measure.
        certify_at: radii to certify at; none: nothing is certified.
        progress: makes a training's progress callback from the run's name.
        attacking: called with (run, attack, inputs done, inputs in all).
        stop: see :func:`cheaplip.training.run.train`.
        overwrite: replace these runs, where they are there already.
        trackers: makes a training's trackers from its folder.

    Raises:
        RunError: ``out`` holds something else than a comparison, or another process is at work in it.
    """
    with RunFolder(out).locked():
        _claim(out, [out / run_name(name, seed) for name in configs for seed in seeds], overwrite=overwrite)
        return _compare(configs, seeds, data, out, attacks, progress, attacking, stop, certify_at, trackers)


def _claim(out: Path, runs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse a folder that holds something else than a comparison; with ``overwrite`` clear the runs named."""
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
                metrics = certify(of_run(folder, data), epsilons=certify_at, seconds=_SEARCH)
            steered = config.method_class.steered
            rows.append(
                {"name": name, "method": config.method, "target": config.steered_to if steered else None, **metrics}
            )
            table.write_rows(rows)
    return rows


@dataclass(frozen=True)
class Summary:
    """A configuration's mean over seeds, and the sample standard deviation (None for one seed), column by column."""

    name: str
    seeds: int
    columns: dict[str, tuple[float, float | None]]


def summarise(rows: Sequence[dict[str, Any]]) -> list[Summary]:
    """Mean and spread over seeds of each configuration's figures, in order of first appearance."""
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
    main = row["rmse"] if "rmse" in row else row["accuracy"]
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
