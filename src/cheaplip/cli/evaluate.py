"""``cheaplip evaluate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, attack_bar, metrics_table, print_json, progress_display, show_table
from cheaplip.cli.options import check_samples, parse_names, parse_radii
from cheaplip.cli.report import renew_report
from cheaplip.robustness import ATTACKS
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.evaluate import evaluate

__all__ = ["Evaluate"]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Attack the model of a finished run; the figures join its metrics.json and its page."""

    run: Annotated[Path, tyro.conf.Positional]
    """the run's folder"""
    attacks: str | None = None
    """which, separated by commas; unset: all that can work on the data"""
    epsilon: str | None = None
    """radii (L2; of noise, standard deviations), separated by commas; unset: the data's own"""
    samples: int | None = None
    """attack the first so many test inputs; unset: all"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Attack, then print the metrics."""
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
        renew_report(RunFolder(self.run))
