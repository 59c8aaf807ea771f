"""The page: what was read, arranged and handed to the templates."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cheaplip.report.answers import answers
from cheaplip.report.confusion import confusion
from cheaplip.report.headline import Headline, headline, telling
from cheaplip.report.history import training
from cheaplip.report.paper.pair import pair
from cheaplip.report.paper.parts import Page
from cheaplip.report.paper.path import path as path_page
from cheaplip.report.paper.regression import regression
from cheaplip.report.paper.tables import TABLES, beside, by_rule, families, published, verdict
from cheaplip.report.perturbation import plane, robustness
from cheaplip.report.read import ReportError, Study, read_study, section
from cheaplip.report.table import Cell, Column, Group, cell, columns, groups
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
    runs: str
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
        return _Entry(name, "", "", "", problem=str(error))
    count, what = len(study.runs), "run" if study.experiment is None else "row"
    quick = ", a quick version" if study.experiment is not None and study.experiment.quick else ""
    runs = f"{count} {what}{'' if count == 1 else 's'}{quick}"
    return _Entry(name, page.relative_to(folder).as_posix(), _headline(study).sentence, runs)


_PAGES: Mapping[str, tuple[str, Callable[[Study], Page]]] = {
    "regression": ("Regression, the paper’s Figure 2", regression),
    "path": ("The path along λ, the paper’s Propositions 2 to 4", path_page),
    "figure1": ("A pair of images, the paper’s Figure 1", pair),
}


def _headline(study: Study) -> Headline:
    name = "" if study.experiment is None else study.experiment.name
    if name in _PAGES:
        return _PAGES[name][1](study).headline
    if name in TABLES:
        honest = by_rule(study)[0].study
        return verdict(honest, families(honest), columns(study))
    return headline(study, groups(study), columns(study))


def _study_page(study: Study) -> str:
    name = "" if study.experiment is None else study.experiment.name
    return _experiment_page(study, *_PAGES[name]) if name in _PAGES else _table_page(study, name in TABLES)


def _experiment_page(study: Study, title: str, arranged: Callable[[Study], Page]) -> str:
    template = _environment().get_template("experiment.html")
    return template.render(
        study=study,
        title=title,
        page=arranged(study),
        gaps=_problems(study),
        versions=_versions(study),
        plotly=get_plotlyjs(),
    )


def _table_page(study: Study, of_paper: bool) -> str:
    shown, kind = columns(study), study.kind
    if of_paper:
        rules = by_rule(study)
        rows = families(rules[0].study)
        tables = [_Table.of(f"rule-{r.name}", r.title, families(r.study), shown, lead=r.note) for r in rules]
    else:
        rows = groups(study)
        tables = [_Table.of("comparison", "The figures" if study.alone else "The comparison", rows, shown)]
    test, attack = shown[0], telling(shown, rows)
    plots = robustness(rows, shown, test, kind)
    if of_paper and (against := beside(rows, shown)):
        plots.insert(0, against)
    both = plane(rows, attack, test, kind) if attack is not None and not study.alone else None
    return (
        _environment()
        .get_template("study.html")
        .render(
            study=study,
            headline=_headline(study),
            label=TABLES[study.experiment.name] if study.experiment is not None and of_paper else study.title,
            groups=rows,
            columns=shown,
            tables=tables,
            first=plots[0] if plots else None,
            others=[*plots[1:], *([] if both is None else [both])],
            curves=training(rows, kind),
            witnesses=[witness(group, kind) for group in rows],
            confusions=[] if kind.errors else [confusion(group) for group in rows],
            answers=[answers(group, kind.unit) for group in rows] if kind.errors else [],
            settings=_settings(rows),
            versions=_versions(study),
            gaps=_gaps(study, shown),
            plotly=get_plotlyjs(),
        )
    )


@dataclass(frozen=True)
class _Table:
    """A sortable table: for each configuration a cell and the published figure, of each column."""

    name: str
    title: str
    lead: str
    rows: tuple[tuple[Group, tuple[tuple[Cell | None, str], ...]], ...]
    best: tuple[float | None, ...]

    @classmethod
    def of(cls, name: str, title: str, rows: Sequence[Group], shown: Sequence[Column], *, lead: str = "") -> "_Table":
        """From groups of runs and the columns to show."""
        cells = tuple((row, tuple((cell(c, row.runs), published(c, row)) for c in shown)) for row in rows)
        return cls(name, title, lead, cells, tuple(_best(column, rows) for column in shown))


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


def _versions(study: Study) -> str:
    """The versions that the runs were made with, each once."""
    made = [{} if study.experiment is None else study.experiment.versions]
    made += [section(run.config, "versions") for run in study.runs]
    told = [", ".join(f"{name} {version}" for name, version in versions.items()) for versions in made]
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
    return [*gaps, *(_Gap(problem) for problem in _problems(study))]


def _problems(study: Study) -> list[str]:
    """What could not be read, each once."""
    return list(dict.fromkeys((*study.problems, *(problem for run in study.runs for problem in run.problems))))


def _write(folder: Path, page: str) -> Path:
    """Write aside, then rename: a browser sees the old page or the new one."""
    path, aside = folder / "report.html", folder / ".report.html.part"
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}") from error
    return path
