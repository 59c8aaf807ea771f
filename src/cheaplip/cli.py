"""The command line: arguments in, calls out; it computes nothing."""

import io
import json
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cheaplip.errors import CheaplipWarning
from cheaplip.experiments import training
from cheaplip.experiments.compare import Attack, Summary, compare, run_name, summarise
from cheaplip.experiments.config import ConfigError, TrainConfig, check_choice
from cheaplip.experiments.data import Data, load
from cheaplip.experiments.evaluation import evaluate
from cheaplip.experiments.methods import METHODS
from cheaplip.experiments.models import build
from cheaplip.experiments.runs import RunFolder
from cheaplip.robustness import ATTACKS, applicable

__all__ = ["Compare", "Evaluate", "Train", "run"]

_messages = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one model and leave a run's folder."""

    config: TrainConfig
    out: Path
    """the run's folder; must not exist, or be empty"""
    resume: bool = False
    """continue from the folder's last checkpoint"""
    overwrite: bool = False
    """replace a run that is already in --out"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: "_Interrupt") -> None:
        """Train, then print the metrics."""
        folder = RunFolder(self.out)
        data = _load(self.config)
        with _progress() as bar:
            metrics = training.train(
                self.config,
                data,
                folder,
                resume=self.resume,
                overwrite=self.overwrite,
                progress=_training_bar(bar, self.config.method),
                stop=interrupt,
            )
        _print_json(metrics) if self.json else _show(_metrics_table(self.config.method, metrics))


@dataclass(frozen=True, kw_only=True)
class _SharedOptions(TrainConfig):
    method: Annotated[str, tyro.conf.Suppress] = "clip"
    seed: Annotated[int, tyro.conf.Suppress] = 0


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train several methods on the same data, attack them all, and print one table."""

    config: _SharedOptions
    out: Path
    """a folder for all runs and results.json; an interrupted comparison continues there"""
    methods: str = "plain,weight,clip,adversarial"
    """which, separated by commas"""
    seeds: str = "0"
    """trained with each, separated by commas"""
    attacks: str | None = None
    """which, separated by commas; unset: all that can work on the data, but fgsm"""
    epsilon: str | None = None
    """radii of the attacks (L2), separated by commas; unset: the data's own"""
    noise: str | None = None
    """standard deviations of the noise, separated by commas; unset: the data's own"""
    samples: int | None = None
    """attack the first so many test inputs; unset: all, and 1000 for autoattack"""
    overwrite: bool = False
    """start afresh where --out holds a comparison already"""
    json: bool = False
    """print the rows as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: "_Interrupt") -> None:
        """Train and attack, then print the table."""
        data = _load(self.config)
        methods = _names("methods", self.methods, METHODS)
        seeds = _seeds(self.seeds)
        attacks = self._attacks(data)
        shared = {field.name: getattr(self.config, field.name) for field in fields(TrainConfig)}
        configs = {method: TrainConfig(**{**shared, "method": method}) for method in methods}
        build(self.config.model, data.shape, data.classes)  # so that a bad model fails before anything is replaced
        runs = [self.out / run_name(method, seed) for method in methods for seed in seeds]
        _claim(self.out, runs, overwrite=self.overwrite)
        with _progress() as bar:
            rows = compare(
                configs,
                seeds,
                data,
                self.out,
                attacks=attacks,
                progress=lambda name: _training_bar(bar, name),
                attacking=_attack_bar(bar, interrupt),
                stop=interrupt,
            )
        if self.json:
            _print_json(rows)
        else:
            _show(_comparison_table(self.config.data, summarise(rows)))
            _messages.print(f"rows: {self.out / 'results.json'}", soft_wrap=True)

    def _attacks(self, data: Data) -> list[Attack]:
        _check_samples(self.samples)
        if self.attacks is None:
            names = [name for name in applicable(data.domain) if name != "fgsm"]
        else:
            names = _names("attacks", self.attacks, applicable(data.domain))
        radii = [data.epsilon] if self.epsilon is None else _radii("epsilon", self.epsilon)
        deviations = [data.noise] if self.noise is None else _radii("noise", self.noise)
        return [
            Attack(name, epsilon, self.samples or (1000 if name == "autoattack" else None))
            for name in names
            for epsilon in (deviations if name == "noise" else radii)
        ]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Attack the model of a finished run; the figures join its metrics.json."""

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

    def __call__(self, interrupt: "_Interrupt") -> None:
        """Attack, then print the metrics."""
        _check_samples(self.samples)
        with _progress() as bar:
            report = _attack_bar(bar, interrupt)
            metrics = evaluate(
                RunFolder(self.run),
                attacks=None if self.attacks is None else _names("attacks", self.attacks, ATTACKS),
                epsilons=None if self.epsilon is None else _radii("epsilon", self.epsilon),
                samples=self.samples,
                progress=lambda name, done, total: report(self.run.name, name, done, total),
            )
        _print_json(metrics) if self.json else _show(_metrics_table(self.run.name, metrics))


_COMMANDS: dict[str, Callable[..., Any]] = {"train": Train, "compare": Compare, "evaluate": Evaluate}


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    interrupt = _Interrupt()
    previous = signal.signal(signal.SIGINT, interrupt.request)
    try:
        command = _parse(arguments)
        if isinstance(command, int):
            return command
        with _shown_warnings():
            command(interrupt)
    except training.Interrupted:
        _messages.print(
            "cheaplip: interrupted; the state is saved: the same command continues (train: with --resume)",
            soft_wrap=True,
        )
        return 130
    except KeyboardInterrupt:
        _messages.print("cheaplip: interrupted; what was finished before is kept", soft_wrap=True)
        return 130
    except (ValueError, ImportError, OSError) as error:
        _fail(str(error))
        return 2
    finally:
        signal.signal(signal.SIGINT, previous)
    return 0


class _Interrupt:
    """Ctrl-C asks training to stop after the step under way; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def request(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        sys.stderr.write("cheaplip: stopping soon; Ctrl-C again stops at once\n")


def _parse(arguments: Sequence[str]) -> Callable[[_Interrupt], None] | int:
    """The command, or an exit status; what the parser prints about bad input is folded to one line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            command: Callable[[_Interrupt], None] = tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="cheaplip",
                description="Train stable models, cheaply; say honestly how stable they are.",
                args=list(arguments),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 2
        if status == 0:
            sys.stdout.write(out.getvalue())
        else:
            _fail(" ".join(re.sub(r"[─│╭╮╰╯━┃]|-{3,}|\x1b\[[0-9;]*m", " ", err.getvalue() + out.getvalue()).split()))
        return status
    return command


def _load(config: TrainConfig) -> Data:
    config.check_device()
    return load(config.data, label=config.label, split_seed=config.split_seed).to(config.resolved_device)


def _claim(out: Path, runs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse a folder that holds something else than a comparison; with ``overwrite`` clear the runs named."""
    if overwrite:
        for run in runs:
            RunFolder(run).create(overwrite=True)
        RunFolder(out).create(overwrite=True)
    elif not any(out.glob("*-seed*/config.json")):
        RunFolder(out).create()


def _names(option: str, text: str, choices: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        check_choice(option, name, choices)
    return list(dict.fromkeys(names))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option}: expected numbers separated by commas, got {text!r}") from None


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"seeds: expected whole numbers separated by commas, got {text!r}") from None


def _radii(option: str, text: str) -> list[float]:
    radii = _numbers(option, text)
    if not all(0 <= radius < float("inf") for radius in radii):
        raise ConfigError(f"{option}: expected finite numbers of at least 0, got {text!r}")
    return radii


def _check_samples(samples: int | None) -> None:
    if samples is not None and samples < 1:
        raise ConfigError(f"samples: expected 1 or more, got {samples}")


def _fail(message: str) -> None:
    sys.stderr.write(f"cheaplip: {' '.join(message.split())}\n")


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Show our own warnings as single lines; the packages' warnings as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CheaplipWarning)
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, CheaplipWarning):
                _fail(f"warning: {message}")
            else:
                show(message, category, *rest, **named)

        warnings.showwarning = line
        yield


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress display that appears with its first task."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_messages,
    )
    try:
        yield bar
    finally:
        if bar.live.is_started:
            bar.stop()


def _task(bar: Progress, description: str) -> TaskID:
    bar.start()
    return bar.add_task(description, total=None, note="")


def _training_bar(bar: Progress, name: str) -> training.Progress:
    tasks: list[TaskID] = []

    def update(done: int, total: int, line: dict[str, float]) -> None:
        shown = {"train_accuracy": "train", "validation_accuracy": "val", "lam": "λ", "largest": "L"}
        note = " ".join(f"{label} {line[key]:.3g}" for key, label in shown.items() if line.get(key) is not None)
        if not tasks:
            tasks.append(_task(bar, f"train {name}"))
        bar.update(tasks[0], completed=done, total=total, note=note)

    return update


def _attack_bar(bar: Progress, interrupt: _Interrupt) -> Callable[[str, str, int, int], None]:
    tasks: dict[str, TaskID] = {}

    def update(run: str, attack: str, done: int, total: int) -> None:
        if interrupt():
            raise KeyboardInterrupt
        name = f"attack {run}: {attack}"
        if name not in tasks:
            tasks[name] = _task(bar, name)
        bar.update(tasks[name], completed=done, total=total)

    return update


def _show(table: Table) -> None:
    """Print a table at its full width, also where standard output is a file."""
    wide = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, wide)).print(table)


def _print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _metrics_table(name: str, metrics: dict[str, Any]) -> Table:
    table = Table(title=name)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in metrics["accuracy"].items():
        table.add_row(f"accuracy, {key}", f"{100 * value:.2f} %")
    for key, value in metrics["robust"].items():
        table.add_row(f"accuracy, {key}", f"{100 * value:.2f} %")
    table.add_row("largest quotient found", f"{metrics['lipschitz']['lower']:.3f}")
    if metrics["lam"] is not None:
        table.add_row("λ", f"{metrics['lam']:.3g}")
    table.add_row("seconds per epoch", f"{metrics['seconds_per_epoch']:.2f}")
    return table


_TITLES = {"lower": "largest quotient", "tracking": "tracking", "lam": "λ", "seconds_per_epoch": "s/epoch"}


def _comparison_table(name: str, summaries: Sequence[Summary]) -> Table:
    keys = list(dict.fromkeys(key for summary in summaries for key in summary.columns))
    keys.sort(key=lambda key: list(_TITLES).index(key) if key in _TITLES else -1)
    table = Table(title=f"{name} (accuracies in %)")
    table.add_column("method")
    for key in keys:
        table.add_column(_TITLES.get(key, key), justify="right")
    for summary in summaries:
        table.add_row(summary.name, *(_cell(key, summary.columns.get(key)) for key in keys))
    return table


def _cell(key: str, column: tuple[float, float | None] | None) -> str:
    if column is None:
        return ""
    mean, spread = column
    scale, form = (1, ".3g") if key in _TITLES else (100, ".1f")
    return f"{scale * mean:{form}}" + ("" if spread is None else f" ±{scale * spread:{form}}")
