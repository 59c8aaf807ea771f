"""``cheaplip certify``."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cheaplip.cli.console import Interrupt, messages, print_json, progress_display, search_bar, show_table
from cheaplip.cli.options import check_seconds, parse_radii
from cheaplip.cli.report import renew_report
from cheaplip.cli.subject import SubjectOptions
from cheaplip.runs.words import words_of
from cheaplip.trained.certify import certify

__all__ = ["Certify"]


@dataclass(frozen=True, kw_only=True)
class Certify(SubjectOptions):
    """Prove how far each test input can move without changing its class, or how far off a regression can be moved.

    Writes certified.csv, and a run's card.
    """

    epsilon: str
    """radii (L2) to give the certified accuracy, or error, at, separated by commas"""
    seconds: float = 30.0
    """for both ends, about"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Certify, then print the accuracies."""
        radii = parse_radii("epsilon", self.epsilon)
        check_seconds(self.seconds)
        subject = self.subject()
        with progress_display() as bar:
            metrics = certify(
                subject, epsilons=radii, seconds=self.seconds, progress=search_bar(bar, subject.name, interrupt)
            )
        print_json(metrics) if self.json else show_table(_table(subject.name, metrics))
        if subject.folder is not None and not self.json:
            card = "" if subject.config is None else f", card: {subject.folder.path / 'card.md'}"
            messages.print(f"radii: {subject.folder.path / 'certified.csv'}{card}", soft_wrap=True)
        renew_report(subject.folder)


def _table(name: str, metrics: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: proved")
    table.add_column("figure")
    table.add_column("value", justify="right")
    words = words_of([metrics])
    table.add_row(f"{words.noun}, test", words.exact(metrics[words.key]["test"]))
    for key, value in metrics["certified"].items():
        table.add_row(f"{words.certified}, ε = {key}", words.exact(value))
    table.add_row("Lip(f) at least", f"{metrics['lipschitz']['lower']:.6g}")
    table.add_row("Lip(f) at most", f"{metrics['lipschitz']['upper']:.6g}")
    return table
