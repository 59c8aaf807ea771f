"""Writes ``report.html``: the page of a study, or an index of the pages below a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cheaplip.report.page import headline_of, page_of, rendered
from cheaplip.report.read import ReportError, read_study

__all__ = ["write_report"]

_DEEPEST = 3  # an index looks for results in folders up to three levels down


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a folder of results.

    Where the folder holds no results itself, the folders below it get their pages, and this one an index of them.

    Args:
        folder: of a comparison (``results.json``), of a run (``metrics.json`` or ``config.json``), or of several.

    Returns:
        The page's path.

    Raises:
        ReportError: there are no results, or they cannot be read, or the page cannot be written.
    """
    if not folder.is_dir():
        raise ReportError(f"no folder {folder}: expected one made by cheaplip train, compare or reproduce")
    study = read_study(folder)
    if study is not None:
        return _write(folder, page_of(study))
    entries = [_entry(folder, below) for below in _below(folder)]
    if not entries:
        raise ReportError(
            f"nothing to report in {folder}: expected results.json of a comparison, metrics.json of a run, "
            "or folders that hold them"
        )
    if all(entry.problem for entry in entries):
        raise ReportError(entries[0].problem)
    return _write(folder, rendered("index.html", title=folder.resolve().name, entries=entries))


@dataclass(frozen=True)
class _Entry:
    """An entry of the index: the study's name, the link to its page, its headline, and how many runs it has.

    ``problem`` says why there is no page to link; ``""`` where there is one.
    """

    name: str
    link: str = ""
    sentence: str = ""
    runs: str = ""
    problem: str = ""


def _below(folder: Path, depth: int = 1) -> Iterator[Path]:
    """The folders with results nearest to ``folder``; the runs within a comparison are part of it."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if any((path / name).is_file() for name in ("results.json", "metrics.json", "config.json")):
            yield path
        elif depth < _DEEPEST:
            yield from _below(path, depth + 1)


def _entry(folder: Path, below: Path) -> _Entry:
    """Write the page of a folder below, and its entry in the index."""
    name = below.relative_to(folder).as_posix()
    try:
        study = read_study(below)
        assert study is not None
        page = _write(below, page_of(study))
    except ReportError as error:
        return _Entry(name, problem=str(error))
    count, what = len(study.runs), "run" if study.experiment is None else "row"
    quick = ", quick version" if study.experiment is not None and study.experiment.quick else ""
    runs = f"{count} {what}{'' if count == 1 else 's'}{quick}"
    return _Entry(name, page.relative_to(folder).as_posix(), headline_of(study).sentence, runs)


def _write(folder: Path, page: str) -> Path:
    """Write aside, then rename: a browser sees the old page or the new one, never half of it."""
    path, aside = folder / "report.html", folder / ".report.html.part"
    try:
        aside.write_text(page, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}") from error
    return path
