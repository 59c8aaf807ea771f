"""Comparison of several configurations on the same data: a row for each configuration and seed, and their summary."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import DivergedError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.naming import run_name
from cheaplip.tracking import Tracker
from cheaplip.trained.certify import certify
from cheaplip.trained.evaluate import evaluate, robust_key
from cheaplip.trained.loading import load_run
from cheaplip.training.aim import plain_config, serves_as_plain
from cheaplip.training.config import TrainConfig
from cheaplip.training.progress import Progress
from cheaplip.training.run import train
from cheaplip.training.tasks import TASKS

__all__ = ["Attack", "Summary", "compare", "measure", "plain_runs", "row_of", "summarise"]

_SECONDS = 10.0  # for both ends of a bracket, about: less than for a single model, as there are many


@dataclass(frozen=True)
class Attack:
    """An attack of a comparison.

    Attributes:
        name: a name from :data:`cheaplip.robustness.ATTACKS`.
        epsilon: its radius, or for noise the standard deviation.
        samples: how many test inputs to attack. None: all.
        norm: of the radius, 2 or ``math.inf``; noise has none.
    """

    name: str
    epsilon: float
    samples: int | None = None
    norm: float = 2

    def on(
        self, folder: RunFolder, data: Data, progress: Callable[[str, int, int], None] | None = None
    ) -> dict[str, Any]:
        """Attack a trained model, and return its metrics; arguments as in :func:`evaluate`."""
        return evaluate(
            folder,
            attacks=[self.name],
            epsilons=[self.epsilon],
            samples=self.samples,
            norm=self.norm,
            data=data,
            progress=progress,
        )


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
    diverged: Callable[[str, DivergedError], None] | None = None,
) -> list[dict[str, Any]]:
    """Train and attack every configuration with every seed.

    Rows that give up a part of a plain network's accuracy are compared with the plain row, if there is one with the
    same options, so that no second plain network is trained.

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
        diverged: called with the name of a configuration whose training diverged, and the error; its row is left out.
            None: the error is raised.

    Returns:
        The rows of ``results.json``.

    Raises:
        DivergedError: the loss of a training became NaN or infinite, and ``diverged`` is None.
        RunError: ``out`` holds something else than a comparison, or another process holds its lock.
    """
    with RunFolder(out).locked():
        _prepare(out, [out / run_name(name, seed) for name in configs for seed in seeds], overwrite=overwrite)
        return _compare(configs, seeds, data, out, attacks, progress, attacking, stop, certify_at, trackers, diverged)


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
    diverged: Callable[[str, DivergedError], None] | None,
) -> list[dict[str, Any]]:
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    table = RunFolder(out)
    order = [(seed, name) for seed in seeds for name in configs]
    for seed in seeds:
        seeded = {name: replace(config, seed=seed) for name, config in configs.items()}
        references = plain_runs(seeded, out)
        for name in sorted(seeded, key=lambda name: seeded[name].gives_up):  # after the plain networks
            config, run = seeded[name], run_name(name, seed)
            folder = RunFolder(out / run)
            reference = None
            if config.gives_up:
                reference = references[name]
                if config.reference is None and not (reference.path / "metrics.json").is_file():
                    report = None if progress is None else progress(reference.path.name)
                    train(plain_config(config), data, reference, resume=True, progress=report, stop=stop)
            try:
                metrics = train(
                    config,
                    data,
                    folder,
                    resume=folder.exists(),
                    progress=None if progress is None else progress(run),
                    stop=stop,
                    trackers=trackers(folder),
                    reference=reference,
                )
            except DivergedError as error:
                if diverged is None:
                    raise
                diverged(name, error)
                continue
            told = None if attacking is None else _prefixed(attacking, run)
            rows[seed, name] = {
                **row_of(name, config),
                **measure(metrics, folder, data, attacks=attacks, certify_at=certify_at, attacking=told),
            }
            table.write_rows([rows[key] for key in order if key in rows])
    return [rows[key] for key in order if key in rows]


def plain_runs(configs: Mapping[str, TrainConfig], out: Path) -> dict[str, RunFolder]:
    """Return for each configuration that gives up a part of a plain network's figure the folder of that network.

    It is that of the option ``reference``, or the row of a comparison that serves, or else a folder of its own, which
    rows with the same options share.

    Args:
        configs: the configurations with one seed, by name.
        out: the folder of the comparison.
    """
    own: dict[TrainConfig, RunFolder] = {}
    found = {}
    for name, config in configs.items():
        if not config.gives_up:
            continue
        if config.reference is not None:
            found[name] = RunFolder(config.reference)
            continue
        row = next((other for other, plain in configs.items() if serves_as_plain(plain, config)), None)
        if row is not None:
            found[name] = RunFolder(out / run_name(row, config.seed))
            continue
        label = "reference" if not own else f"reference-{len(own) + 1}"
        found[name] = own.setdefault(plain_config(config), RunFolder(out / run_name(label, config.seed)))
    return found


def row_of(name: str, config: TrainConfig) -> dict[str, Any]:
    """Return what a row of ``results.json`` says of its configuration."""
    target = config.named_target if config.steered else None
    return {"name": name, "method": config.method, "target": target}


def measure(
    metrics: dict[str, Any],
    folder: RunFolder,
    data: Data,
    *,
    attacks: Sequence[Attack],
    certify_at: Sequence[float] = (),
    attacking: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Attack and certify a finished run, as far as that has not been done.

    Args:
        metrics: its metrics so far.
        folder, data: its folder and its data.
        attacks, certify_at: as in :func:`compare`.
        attacking: called with (attack, inputs done, inputs in all).

    Returns:
        Its metrics.
    """
    for attack in attacks:
        key, samples = robust_key(attack.name, attack.epsilon, attack.norm), len(data.test.x[: attack.samples])
        if metrics.get("robust_samples", {}).get(key) != samples:
            metrics = attack.on(folder, data, attacking)
    if any(str(float(epsilon)) not in metrics["certified"] for epsilon in certify_at):
        metrics = certify(load_run(folder, data), epsilons=certify_at, seconds=_SECONDS)
    return metrics


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
        "seconds_relative": row.get("seconds_relative"),
        "peak_memory": row.get("peak_memory"),
    }


def _prefixed(attacking: Callable[[str, str, int, int], None], name: str) -> Callable[[str, int, int], None]:
    return lambda attack, done, total: attacking(name, attack, done, total)
