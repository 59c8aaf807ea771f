"""``cheaplip reproduce``."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, messages, print_json, units_display
from cheaplip.cli.options import check_jobs, usual_jobs
from cheaplip.cli.report import finish_with_report
from cheaplip.paper import EXPERIMENTS, reproduce
from cheaplip.paper.experiment import Experiment
from cheaplip.runs.folder import RunFolder
from cheaplip.training.options import check_choice

__all__ = ["ReproduceCommand"]


@dataclass(frozen=True, kw_only=True)
class ReproduceCommand:
    """Repeat the paper's experiments and print their results beside the published numbers.

    If it is interrupted, the same command continues.
    """

    experiment: Annotated[str, tyro.conf.Positional]
    """regression, figure1, table1 (or table1-mnist, table1-fashion-mnist), readme, path, or all"""
    out: Path
    """the folder for results.json, table.md and the runs of each experiment"""
    quick: bool = False
    """run a small version, which takes minutes"""
    jobs: int | None = None
    """rows to run at the same time, each in a process of its own; unset: one for each core, at most 8; 1 with a GPU"""
    json: bool = False
    """print the rows as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Run the rows that are missing, then print the tables."""
        check_choice("experiment", self.experiment, tuple(EXPERIMENTS))
        check_jobs(self.jobs)
        experiments = EXPERIMENTS[self.experiment]
        jobs = self.jobs or usual_jobs()
        costs = {f"{e.name}/{unit.name}": unit.cost for e in experiments for unit in e.units(self.quick)}
        with units_display(costs) as report:
            rows = reproduce(experiments, self.out, quick=self.quick, jobs=jobs, report=report, stop=interrupt)
        for experiment in experiments:
            self._picture(experiment, rows[experiment.name])
        if self.json:
            print_json(rows)
        else:
            for experiment in experiments:
                sys.stdout.write(f"# {experiment.name}\n\n{experiment.table(rows[experiment.name])}\n")
            messages.print(f"rows and tables: {self.out}", soft_wrap=True)
        self._report([RunFolder(self.out / experiment.name) for experiment in experiments])

    def _report(self, folders: Sequence[RunFolder]) -> None:
        quick = ["--quick"] if self.quick else []
        command = shlex.join(["cheaplip", "reproduce", self.experiment, *quick, "--out", str(self.out)])
        if len(folders) == 1:
            finish_with_report(folders[0], command)
        else:
            finish_with_report(RunFolder(self.out), command, parts=folders)

    def _picture(self, experiment: Experiment, rows: list[dict[str, object]]) -> None:
        if experiment.picture is None:
            return
        try:
            experiment.picture(rows, str(self.out / experiment.name / "picture.svg"))
        except ImportError as error:
            messages.print(f"cheaplip: no picture of {experiment.name}: {error}", soft_wrap=True)
