"""``cheaplip evaluate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, attack_bar, metrics_table, print_json, progress_display, show_table
from cheaplip.cli.options import check_samples, parse_names, parse_radii
from cheaplip.cli.report import update_report
from cheaplip.robustness import ATTACKS
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.evaluate import evaluate

__all__ = ["EvaluateCommand"]


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Attack the model of a finished run; the figures are added to its metrics.json and its report."""

    run: Annotated[Path, tyro.conf.Positional]
    """the run's folder"""
    attacks: str | None = None
    """the attacks, separated by commas; unset: all that work on the data"""
    epsilon: str | None = None
    """radii (L2), and for noise standard deviations, separated by commas; unset: defaults that suit the data"""
    samples: int | None = None
    """number of test inputs to attack, from the first; unset: all"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Attack the model, then print the metrics."""
        check_samples(self.samples)
        with progress_display() as bar:
            report = attack_bar(bar, interrupt)
            metrics = evaluate(
                RunFolder(self.run),
                attacks=None if self.attacks is None else parse_names("attacks", self.attacks, ATTACKS),
                epsilons=None if self.epsilon is None else parse_radii("epsilon", self.epsilon),
                samples=self.samples,
                progress=lambda name, done, total: report(self.run.name, name, done, total),
            )
        print_json(metrics) if self.json else show_table(metrics_table(self.run.name, metrics))
        update_report(RunFolder(self.run))
