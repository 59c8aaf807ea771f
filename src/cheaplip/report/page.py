"""The page: what was read, arranged and handed to the templates."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cheaplip.report.answers import answers
from cheaplip.report.confusion import confusion
from cheaplip.report.headline import headline, telling
from cheaplip.report.history import training
from cheaplip.report.perturbation import plane, robustness
from cheaplip.report.read import ReportError, Run, Study, read_study, section
from cheaplip.report.table import Column, Group, cell, columns, groups
from cheaplip.report.witness import witness
from cheaplip.report.wording import spread

__all__ = ["write_report"]

_DEEPEST = 3  # folders below the one asked for, in search of results


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a folder of results, and into those below it that an index then links.

    Args:
        folder: of a comparison (``results.json``), of a run (``metrics.json`` or ``config.json``), or of several.

    Returns:
        The page's path.

    Raises:
        ReportError: no results there, or they cannot be read, or the page cannot be written.
    """
    if not folder.is_dir():
        raise ReportError(f"no folder {folder}: expected one made by cheaplip train, compare or reproduce")
    study = read_study(folder)
    if study is not None:
        return _write(folder, _study_page(study))
    entries = [_entry(folder, below) for below in _below(folder)]
    if not entries:
        raise ReportError(
            f"nothing to report in {folder}: expected results.json of a comparison, metrics.json of a run, "
            "or folders that hold them"
        )
    if all(entry.problem for entry in entries):
        raise ReportError(entries[0].problem)
    page = _environment().get_template("index.html").render(title=folder.resolve().name, entries=entries)
    return _write(folder, page)


@dataclass(frozen=True)
class _Entry:
    """A line of the index; ``problem`` says why there is no page to link."""

    name: str
    link: str
    sentence: str
    runs: int
    problem: str = ""


def _below(folder: Path, depth: int = 1) -> Iterator[Path]:
    """Folders with results, the nearest only: the runs of a comparison are part of it."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if any((path / name).is_file() for name in ("results.json", "metrics.json", "config.json")):
            yield path
        elif depth < _DEEPEST:
            yield from _below(path, depth + 1)


def _entry(folder: Path, below: Path) -> _Entry:
    name = below.relative_to(folder).as_posix()
    try:
        study = read_study(below)
        assert study is not None
        page = _write(below, _study_page(study))
    except ReportError as error:
        return _Entry(name, "", "", 0, problem=str(error))
    rows = groups(study)
    sentence = headline(study, rows, columns(study)).sentence
    return _Entry(name, page.relative_to(folder).as_posix(), sentence, len(study.runs))


def _study_page(study: Study) -> str:
    rows, shown, kind = groups(study), columns(study), study.kind
    test, attack = shown[0], telling(shown, rows)
    attacked = robustness(rows, shown, test, kind)
    both = plane(rows, attack, test, kind) if attack is not None and not study.alone else None
    return (
        _environment()
        .get_template("study.html")
        .render(
            study=study,
            headline=headline(study, rows, shown),
            groups=rows,
            columns=shown,
            table=[[cell(column, group.runs) for column in shown] for group in rows],
            best=[_best(column, rows) for column in shown],
            first=attacked[0] if attacked else None,
            others=[*attacked[1:], *([] if both is None else [both])],
            curves=training(rows, kind),
            witnesses=[witness(group, kind) for group in rows],
            confusions=[] if kind.errors else [confusion(group) for group in rows],
            answers=[answers(group, kind.unit) for group in rows] if kind.errors else [],
            settings=_settings(rows),
            versions=_versions(study.runs),
            gaps=_gaps(study, shown),
            plotly=get_plotlyjs(),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cheaplip.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spread"] = spread
    return environment


def _best(column: Column, rows: Sequence[Group]) -> float | None:
    """The best mean of a column; None where no direction is better, or there is nothing to compare."""
    means = [found.mean for group in rows if (found := cell(column, group.runs))]
    if not column.better or len(set(means)) < 2:
        return None
    return max(means) if column.better > 0 else min(means)


@dataclass(frozen=True)
class _Settings:
    """Options that differ between configurations, one value each, and those that they share."""

    names: tuple[str, ...]
    different: tuple[tuple[str, tuple[str, ...]], ...]
    shared: tuple[tuple[str, str], ...]


def _settings(rows: Sequence[Group]) -> _Settings:
    configs = [(group.name, group.runs[0].config) for group in rows if group.runs[0].config]
    keys = [key for key in dict.fromkeys(key for _, config in configs for key in config) if key not in _APART]
    values = {key: tuple(_written(config.get(key)) for _, config in configs) for key in keys}
    return _Settings(
        tuple(name for name, _ in configs),
        tuple((key, several) for key, several in values.items() if len(set(several)) > 1),
        tuple((key, several[0]) for key, several in values.items() if len(set(several)) == 1),
    )


_APART = ("versions", "seed")


def _written(value: Any) -> str:
    return "unset" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _versions(runs: Sequence[Run]) -> str:
    """The versions that the runs were made with, each once."""
    told = [", ".join(f"{name} {version}" for name, version in section(run.config, "versions").items()) for run in runs]
    return "; ".join(dict.fromkeys(text for text in told if text))


@dataclass(frozen=True)
class _Gap:
    """What is missing, and the command that adds it where there is one."""

    text: str
    command: str = ""


def _gaps(study: Study, shown: Sequence[Column]) -> list[_Gap]:
    """What the page would show if it were there, and the command that makes it; then what could not be read."""
    parts = {column.path[0] for column in shown}
    run = next((run for run in study.runs if run.method == "clip"), study.runs[0])
    folder = study.folder if study.alone else study.folder / run.folder
    here = (folder / "model.safetensors").is_file()
    where = "" if here else "; the weights are not in this folder, but where they are"
    name = str(folder) if here else "RUN"
    gaps = []
    if "robust" not in parts:
        gaps.append(_Gap(f"No {study.kind.noun} under noise or attack{where}", f"cheaplip evaluate {name}"))
    if "certified" not in parts:
        proved = "certified intervals" if study.kind.errors else "certified radii"
        gaps.append(_Gap(f"No {proved}{where}", f"cheaplip certify {name} --epsilon 0.5"))
    if ("lipschitz", "upper") not in {column.path for column in shown}:
        gaps.append(_Gap(f"No upper bound of the Lipschitz constant{where}", f"cheaplip bracket {name}"))
    if study.kind.errors:
        gaps.append(_Gap("No accuracies, no confusion matrix and no AutoAttack: the labels are numbers, not classes."))
    problems = dict.fromkeys((*study.problems, *(problem for run in study.runs for problem in run.problems)))
    return [*gaps, *(_Gap(problem) for problem in problems)]


def _write(folder: Path, page: str) -> Path:
    """Write aside, then rename: a browser sees the old page or the new one."""
    path, aside = folder / "report.html", folder / ".report.html.part"
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}") from error
    return path
