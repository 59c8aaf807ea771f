"""``cheaplip report``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, messages
from cheaplip.runs.folder import RunFolder

__all__ = ["ReportCommand", "finish_with_report", "update_report"]


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Make one self-contained page, report.html, from a folder of results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """the folder of a comparison, of a run, or of several of these; an index then links their pages"""

    def __call__(self, interrupt: Interrupt) -> None:  # noqa: ARG002 - over in seconds
        """Write the page, then print where it is."""
        missing = _missing()
        if missing:
            raise ImportError(missing)
        _write(self.folder)


def finish_with_report(folder: RunFolder, command: str, *, parts: Sequence[RunFolder] = ()) -> None:
    """Record the command that made a folder, and write the folder's report.

    If the packages for reports are missing, a message says which.

    Args:
        folder: the folder of a run or a comparison, or one that holds ``parts``; its report is then an index of them.
        command: the command; written to ``command.json``.
        parts: folders inside ``folder`` that the command made; the command is recorded in each of them.
    """
    for made in parts or (folder,):
        made.write_json("command.json", {"command": command})
    missing = _missing()
    if missing:
        messages.print(f"no report: {missing}", soft_wrap=True, markup=False)
    else:
        _write(folder.path)


def update_report(folder: RunFolder | None) -> None:
    """Write a run's report again, after its figures have changed; does nothing if the run has no report."""
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
    """Return which package a report lacks, and the remedy; "" if none is missing."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ModuleNotFoundError as error:
        return f"a report needs {error.name}: pip install 'cheaplip[report]'"
    return ""
