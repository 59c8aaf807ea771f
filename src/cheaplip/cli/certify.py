"""``cheaplip certify``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from cheaplip.cli.console import Interrupt, messages, print_json, progress_display, search_bar, show_table
from cheaplip.cli.options import parse_radii
from cheaplip.experiments.certify import certify
from cheaplip.experiments.config import ConfigError
from cheaplip.experiments.runs import RunFolder

__all__ = ["Certify"]


@dataclass(frozen=True, kw_only=True)
class Certify:
    """Prove how far each test input can move without changing its class; writes certified.csv and the model card."""

    run: Annotated[Path, tyro.conf.Positional]
    """the run's folder"""
    epsilon: str
    """radii (L2) to give the certified accuracy at, separated by commas"""
    seconds: float = 30.0
    """for the search from below, about"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Certify, then print the accuracies."""
        radii = parse_radii("epsilon", self.epsilon)
        if not 0 <= self.seconds < math.inf:
            raise ConfigError(f"seconds: expected a finite number of at least 0, got {self.seconds}")
        folder = RunFolder(self.run)
        with progress_display() as bar:
            metrics = certify(
                folder,
                epsilons=radii,
                seconds=self.seconds,
                progress=search_bar(bar, self.run.name, interrupt),
            )
        if self.json:
            print_json(metrics)
        else:
            show_table(_table(self.run.name, metrics))
            messages.print(f"radii: {self.run / 'certified.csv'}, card: {self.run / 'card.md'}", soft_wrap=True)


def _table(name: str, metrics: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: proved")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("accuracy, test", f"{100 * metrics['accuracy']['test']:.2f} %")
    for key, value in metrics["certified"].items():
        table.add_row(f"certified, ε = {key}", f"{100 * value:.2f} %")
    table.add_row("Lip(f) at least", f"{metrics['lipschitz']['lower']:.6g}")
    table.add_row("Lip(f) at most", f"{metrics['lipschitz']['upper']:.6g}")
    return table
