"""``cheaplip evaluate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, attack_bar, metrics_table, print_json, progress_display, show_table
from cheaplip.cli.options import check_samples, parse_names, parse_norm, parse_radii
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
    """the attacks, separated by commas, and for images blur and brightness; unset: all attacks that work on the data"""
    epsilon: str | None = None
    """radii, and for corruptions their sizes, separated by commas, such as 0.5,8/255; unset: they suit the data"""
    norm: str = "2"
    """norm of the radii: 2, or inf where each feature moves by at most epsilon"""
    samples: int | None = None
    """number of test inputs to attack, from the first; unset: all"""
    data: str | None = None
    """where the run's data are now, if they have moved"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Attack the model, then print the metrics."""
        check_samples(self.samples)
        norm = parse_norm(self.norm)
        with progress_display() as bar:
            report = attack_bar(bar, interrupt)
            metrics = evaluate(
                RunFolder(self.run),
                attacks=None if self.attacks is None else parse_names("attacks", self.attacks, ATTACKS),
                epsilons=None if self.epsilon is None else parse_radii("epsilon", self.epsilon),
                samples=self.samples,
                source=self.data,
                norm=norm,
                progress=lambda name, done, total: report(self.run.name, name, done, total),
            )
        print_json(metrics) if self.json else show_table(metrics_table(self.run.name, metrics))
        update_report(RunFolder(self.run))
