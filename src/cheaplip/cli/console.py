"""What the command line shows: progress bars, tables, JSON, messages; and how it reacts to Ctrl-C."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cheaplip.data import Data
from cheaplip.errors import CheaplipWarning
from cheaplip.runs.words import Words, words_of
from cheaplip.runs.workers import Report
from cheaplip.training.progress import Progress as TrainingProgress
from cheaplip.training.progress import in_few_characters

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
    "show_description",
    "show_table",
    "training_bar",
    "units_display",
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


@contextmanager
def units_display(costs: Mapping[str, float]) -> Iterator[Report]:
    """Show a progress bar for everything, weighted by cost, and a line for each unit of work that is running.

    Args:
        costs: of the units, by name.
    """
    done = dict.fromkeys(costs, 0.0)
    with progress_display(TaskProgressColumn, speed_estimate_period=600) as bar:
        known = 0
        overall = bar.add_task(f"{len(costs)} units", total=sum(costs.values()), note="", start=False)
        tasks = {}

        def report(name: str, fraction: float, note: str) -> None:
            nonlocal known
            bar.start()
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


def _task(bar: Progress, description: str) -> TaskID:
    bar.start()
    return bar.add_task(description, total=None, note="")


def training_bar(bar: Progress, name: str) -> TrainingProgress:
    """Return a callback that shows the progress and the last figures of a training."""
    tasks: list[TaskID] = []

    def update(done: int, total: int, line: dict[str, float]) -> None:
        if not tasks:
            tasks.append(_task(bar, f"train {name}"))
        bar.update(tasks[0], completed=done, total=total, note=in_few_characters(line))

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


def show_description(data: Data) -> None:
    """Print what was read, in three lines; nothing for data that a user's code made whole."""
    for line in () if data.recipe is None else data.recipe.description:
        messages.print(line, soft_wrap=True, markup=False, highlight=False)


def print_json(content: object) -> None:
    """Print JSON on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _aim_row(aim: dict[str, Any], words: Words) -> tuple[str, str]:
    """What was given up of which figure, and the target that is left."""
    given, reference, target = aim["give_up"], aim["reference"], aim["target"]
    sign = "plus" if words.errors else "less"
    figure = "balanced accuracy, " if aim["figure"] == "balanced_accuracy" else ""
    whose = aim.get("reference_method", "plain")
    name = f"target, {figure}{aim['part']} ({whose}: {words.exact(reference)}, {sign} {100 * given:g} %)"
    return name, "none: λ is fixed" if target is None else words.exact(target)


def metrics_table(name: str, metrics: dict[str, Any], plain: dict[str, Any] | None = None) -> Table:
    """Make the table of a run's metrics.

    Args:
        name: its title.
        metrics: those of the run.
        plain: those of the plain network that was trained for its target; they stand in a column beside.
    """
    table = Table(title=name)
    table.add_column("figure")
    table.add_column("value" if plain is None else name, justify="right")
    words = words_of([metrics])
    beside = {} if plain is None else dict(_figures(plain, words))
    if plain is not None:
        table.add_column("plain", justify="right")
    for title, value in _figures(metrics, words):
        table.add_row(title, value, *(() if plain is None else (beside.get(title, ""),)))
    return table


def _figures(metrics: dict[str, Any], words: Words) -> Iterator[tuple[str, str]]:
    """Yield the titles and the figures of a run."""
    figures = {
        **words.figures,
        "balanced_accuracy": "balanced accuracy",
        "auc": "area under the ROC curve",
        "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    }
    for figure, title in figures.items():
        for part, value in metrics.get(figure, {}).items():
            yield f"{title}, {part}", f"{value:.4f}" if figure == "auc" else words.exact(value)
    for part, several in (metrics.get("rmse_of_outputs") or {}).items():
        for number, value in enumerate(several, 1):
            yield f"{words.noun} of output {number} in its units, {part}", words.exact(value)
    for key, value in metrics["robust"].items():
        tried = metrics.get("robust_samples", {}).get(key)
        yield f"{words.noun}, {key}" + (f" ({tried} inputs)" if tried else ""), words.exact(value)
    if metrics.get("constant_answer"):
        yield words.constant, metrics["constant_answer"]
    if metrics.get("aim"):
        yield _aim_row(metrics["aim"], words)
    yield "largest quotient found", f"{metrics['lipschitz']['lower']:.3f}"
    if metrics["lipschitz"].get("upper") is not None:
        yield "Lip(f), proved upper bound", f"{metrics['lipschitz']['upper']:.3f}"
    if metrics.get("lam") is not None:
        yield "λ", f"{metrics['lam']:.3g}"
    yield "seconds per epoch", f"{metrics['seconds_per_epoch']:.2f}"
