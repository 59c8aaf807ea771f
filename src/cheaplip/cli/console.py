"""What the command line shows: progress bars, tables, JSON, messages; and how it reacts to Ctrl-C."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cheaplip.errors import CheaplipWarning
from cheaplip.runs.words import words_of
from cheaplip.training.run import Progress as TrainingProgress

__all__ = [
    "Interrupt",
    "LoggedProgress",
    "attack_bar",
    "fail",
    "messages",
    "metrics_table",
    "print_json",
    "progress_display",
    "search_bar",
    "show_table",
    "training_bar",
    "warnings_as_lines",
]

messages = Console(stderr=True)
_LOG_SECONDS = 60.0  # least time between two progress lines in a log
_LOG_SHARE = 0.05  # least time between them as a fraction of the time since the start, to keep logs of long runs short
_LOG_WIDTH = 160  # characters


class Interrupt:
    """Remembers Ctrl-C, so that a training can stop after its current step; a second Ctrl-C stops at once.

    Calling it returns whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def request(self, *_: object) -> None:
        """Handle a signal."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        sys.stderr.write("cheaplip: stopping soon; press Ctrl-C again to stop at once\n")


def fail(message: str) -> None:
    """Print an error as a single line on standard error."""
    sys.stderr.write(f"cheaplip: {' '.join(message.split())}\n")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show cheaplip's warnings as single lines inside the block; those of other packages are shown as usual."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CheaplipWarning)
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, CheaplipWarning):
                fail(f"warning: {message}")
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = line
        yield


class LoggedProgress(Progress):
    """A progress display that prints a line now and then where there is no terminal, for logs."""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._began = self._printed = self.get_time()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update a task, and print a progress line if it is time for one."""
        super().update(task_id, **changes)
        now = self.get_time()
        if not self.console.is_terminal and now - self._printed >= max(_LOG_SECONDS, _LOG_SHARE * (now - self._began)):
            self._printed = now
            running = [task for task in self.tasks if task.started and not task.finished]
            self.console.print(self.make_tasks_table(running))


@contextmanager
def progress_display(
    amount: Callable[[], ProgressColumn] = MofNCompleteColumn, *, speed_estimate_period: float = 30.0
) -> Iterator[Progress]:
    """Make a progress display that appears with its first task.

    Args:
        amount: makes the column that shows how much is done.
        speed_estimate_period: the seconds from which the remaining time is estimated.
    """
    bar = LoggedProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=messages if messages.is_terminal else Console(stderr=True, width=_LOG_WIDTH),
        speed_estimate_period=speed_estimate_period,
    )
    try:
        yield bar
    finally:
        if bar.live.is_started:
            bar.stop()


def _task(bar: Progress, description: str) -> TaskID:
    bar.start()
    return bar.add_task(description, total=None, note="")


_PARTS = {"train": "train", "validation": "val"}


def training_bar(bar: Progress, name: str) -> TrainingProgress:
    """Return a callback that shows the progress and the last figures of a training."""
    tasks: list[TaskID] = []

    def update(done: int, total: int, line: dict[str, float]) -> None:
        figures = {f"{part}_{name}": short for part, short in _PARTS.items() for name in ("accuracy", "rmse")}
        shown = {**figures, "lam": "λ", "largest": "L"}
        note = " ".join(f"{label} {line[key]:.3g}" for key, label in shown.items() if line.get(key) is not None)
        if not tasks:
            tasks.append(_task(bar, f"train {name}"))
        bar.update(tasks[0], completed=done, total=total, note=note)

    return update


def attack_bar(bar: Progress, interrupt: Interrupt) -> Callable[[str, str, int, int], None]:
    """Return a callback that shows the progress of attacks, and stops them on Ctrl-C."""
    tasks: dict[str, TaskID] = {}

    def update(run: str, attack: str, done: int, total: int) -> None:
        if interrupt():
            raise KeyboardInterrupt
        name = f"attack {run}: {attack}"
        if name not in tasks:
            tasks[name] = _task(bar, name)
        bar.update(tasks[name], completed=done, total=total)

    return update


def search_bar(bar: Progress, run: str, interrupt: Interrupt) -> Callable[[int, int], None]:
    """Return a callback that shows the progress of a search for the largest quotient, and stops it on Ctrl-C."""
    tasks: list[TaskID] = []

    def update(done: int, total: int) -> None:
        if interrupt():
            raise KeyboardInterrupt
        if not tasks:
            tasks.append(_task(bar, f"search {run}"))
        bar.update(tasks[0], completed=done, total=total)

    return update


def show_table(table: Table) -> None:
    """Print a table at its full width, even if standard output is a file or narrower."""
    wide = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, wide)).print(table)


def print_json(content: object) -> None:
    """Print JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def metrics_table(name: str, metrics: dict[str, Any]) -> Table:
    """Make the table of a run's metrics."""
    table = Table(title=name)
    table.add_column("figure")
    table.add_column("value", justify="right")
    words = words_of([metrics])
    for figure, title in words.figures.items():
        for part, value in metrics[figure].items():
            table.add_row(f"{title}, {part}", words.exact(value))
    for key, value in metrics["robust"].items():
        table.add_row(f"{words.noun}, {key}", words.exact(value))
    table.add_row("largest quotient found", f"{metrics['lipschitz']['lower']:.3f}")
    if metrics.get("lam") is not None:
        table.add_row("λ", f"{metrics['lam']:.3g}")
    table.add_row("seconds per epoch", f"{metrics['seconds_per_epoch']:.2f}")
    return table
