"""What lies in a folder: a comparison, a run, or several of them; only JSON is read."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cheaplip.report.kind import Kind, kind_of
from cheaplip.runs.naming import run_name

__all__ = ["BEST_ON_TEST", "Experiment", "ReportError", "Run", "Study", "number", "read_study", "section"]


class ReportError(ValueError):
    """There is nothing to report on, or it cannot be read."""


@dataclass(frozen=True)
class Run:
    """One trained model: its row, and what its own folder adds where there is one.

    Attributes:
        name: of its configuration; the runs of several seeds share it.
        row: as in ``results.json``; keys may be missing.
        config, history, exhibits: ``config.json``, ``history.jsonl``, ``report.json``; empty where missing.
        folder: the run's name below the study, for messages.
        problems: what could not be read, a sentence each.
    """

    name: str
    row: Mapping[str, Any]
    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    exhibits: Mapping[str, Any]
    folder: str
    problems: tuple[str, ...]

    @property
    def method(self) -> str:
        """Its method, ``""`` where unknown."""
        return str(self.row.get("method") or self.config.get("method") or "")

    @property
    def target(self) -> float | None:
        """The accuracy, or error, its λ was steered to; None where nothing was steered."""
        if self.method not in ("", "clip", "weight"):
            return None
        return number(self.row.get("target", self.config.get("target")))

    @property
    def target_on(self) -> str:
        """The part of the data on which the target was to be met: train or validation."""
        return "validation" if self.config.get("target_on") == "validation" else "train"

    @property
    def seed(self) -> str:
        """Its seed, ``"?"`` where unknown."""
        seed = self.row.get("seed", self.config.get("seed"))
        return "?" if seed is None else str(seed)

    def names(self, kind: str, count: int) -> tuple[str, ...]:
        """So many names of classes or features, where the data had them; else empty."""
        found = self.exhibits.get(kind)
        fits = isinstance(found, list) and len(found) == count and all(isinstance(name, str) for name in found)
        return tuple(found) if fits else ()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Experiment:
    """What of the paper a study repeats: the name in ``experiment.json``, the small version or not, and by what."""

    name: str
    quick: bool
    versions: Mapping[str, Any]

    @property
    def data(self) -> str:
        """Of a table, what its rows were trained on; else ``""``."""
        return {"table1-mnist": "MNIST", "table1-fashion-mnist": "Fashion-MNIST", "readme": "MNIST"}.get(self.name, "")


@dataclass(frozen=True)
class Study:
    """All that one page shows: the rows of a comparison, of an experiment of the paper, or a run alone."""

    folder: Path
    runs: tuple[Run, ...]
    alone: bool
    command: str | None = None
    problems: tuple[str, ...] = field(default=())
    experiment: Experiment | None = None

    @property
    def data(self) -> str:
        """What the runs were trained on, ``""`` where unknown."""
        if self.experiment is not None:
            return self.experiment.data
        names = [str(run.config["data"]) for run in self.runs if run.config.get("data")]
        return _TITLES.get(names[0], Path(names[0]).name) if names else ""

    @property
    def kind(self) -> Kind:
        """Whether its figures are accuracies, or errors."""
        return kind_of([run.row for run in self.runs], [run.config for run in self.runs])

    @property
    def title(self) -> str:
        """The data's name, or else the folder's."""
        return self.data or self.folder.resolve().name


BEST_ON_TEST = ", best on test"  # what the paper's rule adds to the name of a row
_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def number(value: Any) -> float | None:
    """``value`` as a finite float; None for anything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def section(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The dictionary under ``key``; empty where an older version wrote none, or something else."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def read_study(folder: Path) -> Study | None:
    """The comparison or run in ``folder``; None where there is neither.

    Raises:
        ReportError: ``results.json`` or ``metrics.json`` is broken, or holds something else.
    """
    if (folder / "results.json").is_file():
        return _comparison(folder)
    if (folder / "metrics.json").is_file() or (folder / "config.json").is_file():
        return _alone(folder)
    return None


def _comparison(folder: Path) -> Study:
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
        runs.append(_run(place, name.removesuffix(BEST_ON_TEST), row, kept))
    if command is None and experiment is not None:
        quick = ["--quick"] if experiment.quick else []
        command = shlex.join(["cheaplip", "reproduce", experiment.name, *quick, "--out", str(folder.parent)])
    return Study(folder, tuple(runs), False, command, (*problems, *unread), experiment)


def _experiment(folder: Path, problems: list[str]) -> Experiment | None:
    found = _optional(folder / "experiment.json", problems)
    if not isinstance(found.get("experiment"), str):
        return None
    return Experiment(found["experiment"], found.get("quick") is True, section(found, "versions"))


def _places(folder: Path) -> dict[tuple[str, str], Path]:
    """The folder of each row of an experiment, by name and seed; a unit that is broken or unfinished has none."""
    found = {}
    for path in sorted(folder.glob("*/rows.json")):
        rows = _optional(path, []).get("rows")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict):
                found[str(row.get("name")), str(row.get("seed"))] = path.parent
    return found


def _alone(folder: Path) -> Study:
    row: dict[str, Any] = {}
    problems: tuple[str, ...] = ("No metrics.json: the run has not finished; its training so far is below.",)
    if (folder / "metrics.json").is_file():
        content = _load(folder / "metrics.json")
        if not isinstance(content, dict):
            raise ReportError(f"{folder / 'metrics.json'}: expected a JSON object, got {type(content).__name__}")
        row, problems = content, ()
    run = _run(folder, folder.resolve().name, row)
    run = replace(run, name=run.method or run.name)
    command, unread = _command(folder)
    if command is None:  # of a run in a comparison's folder
        command, unread = _command(folder.resolve().parent)
    return Study(folder, (run,), alone=True, command=command, problems=problems + unread)


def _run(folder: Path, name: str, row: Mapping[str, Any], measured: Path | None = None) -> Run:
    """A run; ``measured`` is the folder of its checkpoint where that is another one's."""
    problems: list[str] = []
    row = _completed(row, _optional((measured or folder) / "metrics.json", problems))
    config = _optional(folder / "config.json", problems)
    exhibits = _optional(folder / "report.json", problems)
    history = _history(folder / "history.jsonl", problems)
    done, ends = number(row.get("epochs")), number(history[-1].get("epoch")) if history else None
    if done is not None and ends is not None and ends < done:
        problems.append(f"{folder / 'history.jsonl'} ends at epoch {ends:g} of {done:g}: the others are missing.")
    return Run(name, row, config, history, exhibits, folder.name, tuple(problems))


def _completed(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row, with what was added to the run's own file after the comparison: more attacks, bounds, certificates."""
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
    """An object that the page can do without; a broken file is a problem to show, not an error."""
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
        elif position < len(lines):  # a crash cuts the last line off, and that is no problem
            problems.append(f"Line {position} of {path} is broken and left out.")
    return tuple(epochs)
