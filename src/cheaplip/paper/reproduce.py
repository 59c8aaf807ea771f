"""Runs the units of experiments, in this process or in several.

Finished units are kept and interrupted ones continue, so the same command can be given again at any time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cheaplip.errors import Interrupted, RunError
from cheaplip.paper.experiment import Experiment, Job, Row, Unit
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.runs.workers import Report, Work, work_through

__all__ = ["Report", "reproduce"]


def reproduce(
    experiments: Sequence[Experiment],
    out: Path,
    *,
    quick: bool = False,
    jobs: int = 1,
    report: Report = lambda _unit, _fraction, _note: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, list[Row]]:
    """Run every unit that is not finished.

    The folder ``out/EXPERIMENT`` gets a subfolder for each unit, and ``results.json`` and ``table.md``, which are
    written again whenever a unit is finished. If the training of a unit diverges, the other units still run.

    Args:
        experiments: to run.
        out: a folder for all of them.
        quick: whether to run the small version, which cannot share a folder with the full one.
        jobs: number of processes, at most one for each core; each gets its share of this process's threads.
        report: called with the progress of each unit, from 0 (not started) to 1.
        stop: called often; once it returns True, every unit saves its state.

    Returns:
        The rows of each experiment, by name.

    Raises:
        RunError: a folder holds something else.
        DivergedError: the training of a unit diverged; raised when all others are finished.
        Interrupted: ``stop`` returned True.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected 1 or more processes, got {jobs}")
    for experiment in experiments:
        _claim(RunFolder(out / experiment.name), experiment.name, quick)
    todo: dict[str, Work] = {}
    owners: dict[str, Experiment] = {}
    for experiment in experiments:
        for unit in experiment.units(quick):
            name = f"{experiment.name}/{unit.name}"
            finished = (out / name / "rows.json").is_file()
            report(name, float(finished), "")
            if not finished:
                todo[name], owners[name] = partial(_run, unit, name, out, quick), experiment
        _collect(experiment, out, quick)
    errors = []
    for name, error in work_through(todo, jobs=jobs, report=report, stop=stop):
        _collect(owners[name], out, quick)
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return {experiment.name: _collect(experiment, out, quick) for experiment in experiments}


def _claim(folder: RunFolder, name: str, quick: bool) -> None:
    """Make the folder this experiment's own, or check that it is already."""
    if (folder.path / "experiment.json").is_file():
        found = folder.read_json("experiment.json")
        if (found.get("experiment"), found.get("quick")) != (name, quick):
            kind = "quick" if found.get("quick") else "full"
            raise RunError(
                f"{folder.path} holds the {kind} version of {found.get('experiment')!r}: choose another --out"
            )
    else:
        folder.create()
        folder.write_json("experiment.json", {"experiment": name, "quick": quick, "versions": versions()})


def _collect(experiment: Experiment, out: Path, quick: bool) -> list[Row]:
    """Read the rows of all finished units, and write ``results.json`` and ``table.md`` from them."""
    folder = RunFolder(out / experiment.name)
    units = [RunFolder(folder.path / unit.name) for unit in experiment.units(quick)]
    rows = [row for unit in units if (unit.path / "rows.json").is_file() for row in unit.read_json("rows.json")["rows"]]
    folder.write_rows(rows)
    folder.write_text("table.md", experiment.table(rows) if rows else "")
    return rows


def _run(unit: Unit, name: str, out: Path, quick: bool, report: Report, stop: Callable[[], bool]) -> None:
    """Run a unit and write its rows, which mark it as finished."""
    if stop():
        raise Interrupted
    folder = RunFolder(out / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    rows = unit.run(Job(folder, quick, lambda fraction, note: report(name, min(fraction, 0.999), note), stop))
    folder.write_json("rows.json", {"rows": rows})
    report(name, 1.0, "")
