"""Reads a folder of results: a comparison, an experiment of the paper, or a single run. Only JSON is read."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cheaplip.report.study import Experiment, Run, Study, number, section
from cheaplip.runs.naming import plain_beside, run_name

__all__ = ["ReportError", "read_study"]

_LEFT_OUT = "left-out.json"  # beside the rows of all methods: those that are not among them, and why
_BEST_ON_TEST = ", best on test"  # ends the name of a row whose epoch was chosen on test data, the paper's rule


class ReportError(ValueError):
    """There is nothing to report on, or it cannot be read."""


def read_study(folder: Path) -> Study | None:
    """Read the comparison, experiment or run in a folder; None where there is none of them.

    Raises:
        ReportError: ``results.json`` or ``metrics.json`` is broken, or holds something else.
    """
    if (folder / "results.json").is_file():
        return _comparison(folder)
    if (folder / "metrics.json").is_file() or (folder / "config.json").is_file():
        return _alone(folder)
    return None


def _comparison(folder: Path) -> Study:
    """The rows of ``results.json``, each with what its own folder adds."""
    rows = _load(folder / "results.json")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ReportError(f"{folder / 'results.json'}: expected a list of rows, as 'cheaplip compare' writes it")
    if not rows:
        raise ReportError(f"{folder / 'results.json'}: no rows yet; continue the comparison, then report again")
    command, problems = _command(folder)
    unread: list[str] = []
    experiment = _experiment(folder, unread)
    places = {} if experiment is None else _places(folder)
    runs = []
    for position, row in enumerate(rows, start=1):
        name = str(row.get("name") or row.get("method") or f"row {position}")
        if experiment is None:
            runs.append(_run(folder / run_name(name, row.get("seed", 0)), name, row))
            continue
        place = places.get((name, str(row.get("seed"))), folder / run_name(name, row.get("seed", 0)))
        kept = place / f"best-on-{row.get('rule')}"
        runs.append(_run(place, name.removesuffix(_BEST_ON_TEST), row, kept))
    if command is None and experiment is not None:
        quick = ["--quick"] if experiment.quick else []
        command = shlex.join(["cheaplip", "reproduce", experiment.name, *quick, "--out", str(folder.parent)])
    left_out = _optional(folder / _LEFT_OUT, unread) if (folder / _LEFT_OUT).is_file() else None
    reasons = None if left_out is None else {name: str(reason) for name, reason in left_out.items()}
    return Study(folder, tuple(runs), False, command, (*problems, *unread), experiment, reasons)


def _experiment(folder: Path, problems: list[str]) -> Experiment | None:
    found = _optional(folder / "experiment.json", problems)
    if not isinstance(found.get("experiment"), str):
        return None
    return Experiment(found["experiment"], found.get("quick") is True, section(found, "versions"))


def _places(folder: Path) -> dict[tuple[str, str], Path]:
    """The folder of each row of an experiment, by name and seed; rows of broken or unfinished units have none."""
    found = {}
    for path in sorted(folder.glob("*/rows.json")):
        rows = _optional(path, []).get("rows")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict):
                found[str(row.get("name")), str(row.get("seed"))] = path.parent
    return found


def _alone(folder: Path) -> Study:
    """A single run, finished or not; the plain network that was trained for its target stands beside it."""
    row: dict[str, Any] = {}
    problems: tuple[str, ...] = ("No metrics.json: the run has not finished. The page shows its training so far.",)
    if (folder / "metrics.json").is_file():
        content = _load(folder / "metrics.json")
        if not isinstance(content, dict):
            raise ReportError(f"{folder / 'metrics.json'}: expected a JSON object, got {type(content).__name__}")
        row, problems = content, ()
    run = _run(folder, folder.resolve().name, row)
    run = replace(run, name=run.method or run.name)
    command, unread = _command(folder)
    if command is None:  # the run may be part of a comparison, whose folder is the one above
        command, unread = _command(folder.resolve().parent)
    if (plain := plain_beside(folder, row)) is not None:
        beside = _run(plain, "plain", {})
        return Study(folder, (replace(run, folder="."), beside), False, command, problems + unread)
    return Study(folder, (run,), alone=True, command=command, problems=problems + unread)


def _run(folder: Path, name: str, row: Mapping[str, Any], measured: Path | None = None) -> Run:
    """A run with the files of its folder; ``measured`` is the folder of the row's checkpoint, where it has its own."""
    problems: list[str] = []
    row = _completed(row, _optional((measured or folder) / "metrics.json", problems))
    config = _optional(folder / "config.json", problems)
    exhibits = _optional(folder / "report.json", problems)
    history = _history(folder / "history.jsonl", problems)
    done, ends = number(row.get("epochs")), number(history[-1].get("epoch")) if history else None
    if done is not None and ends is not None and ends < done:
        problems.append(f"{folder / 'history.jsonl'} ends at epoch {ends:g} of {done:g}: the other epochs are missing.")
    return Run(name, row, config, history, exhibits, folder.name, tuple(problems))


def _completed(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, with what was added to the run's own file after it was written: more attacks, bounds, certificates."""
    sections = {key: {**value, **section(row, key)} for key, value in metrics.items() if isinstance(value, dict)}
    return {**metrics, **row, **sections}


def _command(folder: Path) -> tuple[str | None, tuple[str, ...]]:
    problems: list[str] = []
    command = _optional(folder / "command.json", problems).get("command")
    return (command if isinstance(command, str) else None), tuple(problems)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"cannot read {path}: {error}") from error


def _optional(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """An object that the page can do without; a broken file becomes a problem for the page to show, not an error."""
    if not path.is_file():
        return {}
    try:
        content = _load(path)
    except ReportError as error:
        problems.append(f"{str(error)[0].upper()}{str(error)[1:]}.")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{path} is left out: expected a JSON object, got {type(content).__name__}.")
    return {}


def _history(path: Path, problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    """The epochs of ``history.jsonl``, without the lines that are broken."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (OSError, ValueError) as error:
        problems.append(f"Cannot read {path}: {error}.")
        return ()
    epochs = []
    for position, line in enumerate(lines, start=1):
        try:
            epoch = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            epoch = None
        if isinstance(epoch, dict):
            epochs.append(epoch)
        elif position < len(lines):  # a crash may cut the last line off; that is no problem to show
            problems.append(f"Line {position} of {path} is broken and is left out.")
    return tuple(epochs)
