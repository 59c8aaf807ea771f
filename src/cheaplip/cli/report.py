"""``cheaplip report``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, messages
from cheaplip.runs.folder import RunFolder

__all__ = ["Report", "finish_with_report", "renew_report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make one self-contained page, report.html, from a folder of results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """of a comparison, of a run, or of several: then an index links their pages"""

    def __call__(self, interrupt: Interrupt) -> None:  # noqa: ARG002 - done before one could ask
        """Write the page, then say where."""
        missing = _missing()
        if missing:
            raise ImportError(missing)
        _write(self.folder)


def finish_with_report(folder: RunFolder, command: str, *, parts: Sequence[RunFolder] = ()) -> None:
    """Keep the command, and report on what it made; where the packages for that are missing, say so in a line.

    Args:
        folder: of a run or a comparison, or the one that holds ``parts``: then the report is an index of them.
        command: to be kept.
        parts: folders that the command made within ``folder``; each keeps it.
    """
    for made in parts or (folder,):
        made.write_json("command.json", {"command": command})
    missing = _missing()
    if missing:
        messages.print(f"no report: {missing}", soft_wrap=True, markup=False)
    else:
        _write(folder.path)


def renew_report(folder: RunFolder | None) -> None:
    """Make a run's page again, now that its figures have changed; where there is none, none is made."""
    if folder is None or not (folder.path / "report.html").is_file():
        return
    missing = _missing()
    if missing:
        messages.print(f"the report is older than these figures: {missing}", soft_wrap=True, markup=False)
    else:
        _write(folder.path)


def _write(folder: Path) -> None:
    from cheaplip.report import write_report

    messages.print(f"report: {write_report(folder)}", soft_wrap=True, markup=False)


def _missing() -> str:
    """What the report lacks, and the remedy; empty where nothing is missing."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ModuleNotFoundError as error:
        return f"a report needs {error.name}: pip install 'cheaplip[report]'"
    return ""
