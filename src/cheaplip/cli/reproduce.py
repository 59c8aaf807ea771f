"""``cheaplip reproduce``."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.progress import TaskProgressColumn

from cheaplip.cli.console import Interrupt, messages, print_json, progress_display
from cheaplip.cli.report import finish_with_report
from cheaplip.errors import ConfigError
from cheaplip.paper import EXPERIMENTS, reproduce
from cheaplip.paper.experiment import Experiment
from cheaplip.paper.reproduce import Report
from cheaplip.runs.folder import RunFolder
from cheaplip.training.options import check_choice

__all__ = ["ReproduceCommand"]

_MOST_JOBS = 8


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
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs: expected 1 or more, got {self.jobs}")
        experiments = EXPERIMENTS[self.experiment]
        jobs = self.jobs or (1 if torch.cuda.is_available() else min(_MOST_JOBS, os.cpu_count() or 1))
        with _progress(experiments, self.quick) as report:
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


@contextmanager
def _progress(experiments: tuple[Experiment, ...], quick: bool) -> Iterator[Report]:
    """Show a progress bar for everything, weighted by cost, and a line for each unit that is running."""
    costs = {f"{e.name}/{unit.name}": unit.cost for e in experiments for unit in e.units(quick)}
    done = dict.fromkeys(costs, 0.0)
    with progress_display(TaskProgressColumn, speed_estimate_period=600) as bar:
        known = 0
        bar.start()
        overall = bar.add_task(f"{len(costs)} units", total=sum(costs.values()), note="", start=False)
        tasks = {}

        def report(name: str, fraction: float, note: str) -> None:
            nonlocal known
            done[name] = fraction
            completed = sum(costs[n] * done[n] for n in costs)
            known += 1
            if known <= len(costs):  # units that earlier calls finished tell nothing about the speed
                bar.reset(overall)
            bar.update(overall, completed=completed)
            if 0 < fraction < 1 and name not in tasks:
                tasks[name] = bar.add_task(name, total=1.0, note="")
            if name in tasks:
                bar.update(tasks[name], completed=fraction, note=note)
                if fraction == 1:
                    bar.remove_task(tasks.pop(name))

        yield report
