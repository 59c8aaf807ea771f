"""``cheaplip bracket``."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cheaplip.cli.console import Interrupt, print_json, progress_display, search_bar, show_table
from cheaplip.cli.options import check_seconds, parse_norm
from cheaplip.cli.report import update_report
from cheaplip.cli.trained_model import TrainedModelOptions
from cheaplip.lipschitz.bounds.best import BOUNDS
from cheaplip.trained.bracket import SECONDS, bracket_model
from cheaplip.training.options import check_choice

__all__ = ["BracketCommand"]


@dataclass(frozen=True, kw_only=True)
class BracketCommand(TrainedModelOptions):
    """Bracket the Lipschitz constant of a trained model: lower ≤ Lip(f) ≤ upper.

    For a run, in norm 2, both ends are added to its metrics.json and its report.
    """

    norm: str = "2"
    """norm of inputs and outputs: 2, 1 or inf"""
    method: str | None = None
    """the method of the upper bound; unset: the best of all"""
    seconds: float = SECONDS
    """time for both ends, about"""
    json: bool = False
    """print both ends as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Bracket the model, then print both ends."""
        norm = parse_norm(self.norm)
        if self.method is not None:
            check_choice("method", self.method, BOUNDS)
        check_seconds(self.seconds)
        trained = self.load()
        with progress_display() as bar:
            found = bracket_model(
                trained,
                norm=norm,
                method=self.method,
                seconds=self.seconds,
                progress=search_bar(bar, trained.name, interrupt),
            )
        print_json(found) if self.json else show_table(_table(trained.name, found))
        update_report(trained.folder)


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
