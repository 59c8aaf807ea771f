"""``cheaplip bracket``."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cheaplip.cli.console import Interrupt, print_json, progress_display, search_bar, show_table
from cheaplip.cli.options import check_seconds, parse_norm
from cheaplip.cli.report import renew_report
from cheaplip.cli.subject import SubjectOptions
from cheaplip.lipschitz.bounds.best import BOUNDS
from cheaplip.trained.bracket import bracket_subject
from cheaplip.training.options import check_choice

__all__ = ["Bracket"]


@dataclass(frozen=True, kw_only=True)
class Bracket(SubjectOptions):
    """Bracket the Lipschitz constant of a trained model.

    Of a run, in norm 2, both ends join its metrics.json and its page.
    """

    norm: str = "2"
    """of inputs and outputs: 2, 1 or inf"""
    method: str | None = None
    """the upper bound to use; unset: the best of all"""
    seconds: float = 30.0
    """for both ends, about"""
    json: bool = False
    """print both ends as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Bracket, then print both ends."""
        norm = parse_norm(self.norm)
        if self.method is not None:
            check_choice("method", self.method, BOUNDS)
        check_seconds(self.seconds)
        subject = self.subject()
        with progress_display() as bar:
            found = bracket_subject(
                subject,
                norm=norm,
                method=self.method,
                seconds=self.seconds,
                progress=search_bar(bar, subject.name, interrupt),
            )
        print_json(found) if self.json else show_table(_table(subject.name, found))
        renew_report(subject.folder)


def _table(name: str, found: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: lower ≤ Lip(f) ≤ upper")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key in ("lower", "upper", "gap"):
        table.add_row(key, "∞" if found[key] is None else f"{found[key]:.6g}")
    table.add_row("method", found["method"])
    table.add_row("norm", str(found["norm"]))
    table.add_row("seconds", f"{found['seconds']:.1f}")
    if found["reason"]:
        table.add_row("reason", found["reason"])
    return table
