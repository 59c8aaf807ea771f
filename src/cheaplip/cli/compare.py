"""``cheaplip compare``."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cheaplip.cli.console import (
    Interrupt,
    attack_bar,
    messages,
    print_json,
    progress_display,
    show_table,
    training_bar,
)
from cheaplip.cli.options import (
    check_samples,
    command_line,
    load_data,
    parse_methods,
    parse_names,
    parse_radii,
    parse_seeds,
)
from cheaplip.cli.report import finish_with_report
from cheaplip.cli.tracking import TrackingOptions
from cheaplip.data import Data
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.words import Words, words_of
from cheaplip.trained.compare import Attack, Summary, compare, summarise
from cheaplip.training.config import TrainConfig
from cheaplip.training.models import build
from cheaplip.training.targets import check_target
from cheaplip.training.tasks import task_of

__all__ = ["CompareCommand"]

_SLOW_SAMPLES = 1000  # inputs attacked by AutoAttack, which is slow, unless the user says how many


@dataclass(frozen=True, kw_only=True)
class _ComparedConfig(TrainConfig):
    """The options of all runs of a comparison; methods and seeds are options of the command."""

    method: Annotated[str, tyro.conf.Suppress] = "clip"
    seed: Annotated[int, tyro.conf.Suppress] = 0


@dataclass(frozen=True, kw_only=True)
class CompareCommand(TrackingOptions):
    """Train several methods on the same data, attack the trained models, and print one table."""

    config: _ComparedConfig
    out: Path
    """the folder for all runs and results.json; an interrupted comparison continues there"""
    methods: str = "plain,weight,clip,adversarial"
    """the training methods, separated by commas"""
    seeds: str = "0"
    """the seeds to train each method with, separated by commas"""
    attacks: str | None = None
    """the attacks, separated by commas; unset: all that work on the data, except fgsm"""
    epsilon: str | None = None
    """radii of the attacks (L2), separated by commas; unset: a default that suits the data"""
    noise: str | None = None
    """standard deviations of the noise, separated by commas; unset: a default that suits the data"""
    certify: str | None = None
    """radii (L2) of the certified accuracy or error, separated by commas; unset: nothing is certified"""
    samples: int | None = None
    """number of test inputs to attack, from the first; unset: all, and 1000 for autoattack"""
    overwrite: bool = False
    """replace the comparison that --out holds already"""
    json: bool = False
    """print the rows as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Train and attack the models, then print the table."""
        self.trackers(RunFolder(self.out))  # a missing package must be reported before anything is replaced
        data = load_data(self.config)
        methods = parse_methods(self.methods)
        seeds = parse_seeds(self.seeds)
        attacks = self._attacks(data)
        certify_at = [] if self.certify is None else parse_radii("certify", self.certify)
        shared = {field.name: getattr(self.config, field.name) for field in fields(TrainConfig)}
        configs = {method: TrainConfig(**{**shared, "method": method}) for method in methods}
        for config in configs.values():
            check_target(config, data)
        build(self.config.model, data.shape, data.outputs)  # a bad model must be reported before anything is replaced
        with progress_display() as bar:
            rows = compare(
                configs,
                seeds,
                data,
                self.out,
                attacks=attacks,
                certify_at=certify_at,
                progress=lambda name: training_bar(bar, name),
                attacking=attack_bar(bar, interrupt),
                stop=interrupt,
                overwrite=self.overwrite,
                trackers=self.trackers,
            )
        if self.json:
            print_json(rows)
        else:
            show_table(_comparison_table(self.config.data, summarise(rows), words_of(rows)))
            messages.print(f"rows: {self.out / 'results.json'}", soft_wrap=True)
        finish_with_report(RunFolder(self.out), command_line("compare", self))

    def _attacks(self, data: Data) -> list[Attack]:
        check_samples(self.samples)
        applicable = task_of(data).attacks(data.domain)
        if self.attacks is None:
            names = [name for name in applicable if name != "fgsm"]
        else:
            names = parse_names("attacks", self.attacks, applicable)
        radii = [data.epsilon] if self.epsilon is None else parse_radii("epsilon", self.epsilon)
        deviations = [data.noise] if self.noise is None else parse_radii("noise", self.noise)
        return [
            Attack(name, epsilon, self.samples or (_SLOW_SAMPLES if name == "autoattack" else None))
            for name in names
            for epsilon in (deviations if name == "noise" else radii)
        ]


_TITLES = {
    "lower": "largest quotient",
    "upper": "upper bound",
    "tracking": "tracking",
    "lam": "λ",
    "seconds_per_epoch": "s/epoch",
}


def _comparison_table(name: str, summaries: Sequence[Summary], words: Words) -> Table:
    keys = list(dict.fromkeys(key for summary in summaries for key in summary.columns))
    keys.sort(key=lambda key: list(_TITLES).index(key) if key in _TITLES else -1)
    table = Table(title=f"{name} ({words.comparison})")
    table.add_column("method")
    for key in keys:
        table.add_column(_TITLES.get(key, key), justify="right")
    for summary in summaries:
        table.add_row(summary.name, *(_cell(key, summary.columns.get(key), words) for key in keys))
    return table


def _cell(key: str, column: tuple[float, float | None] | None, words: Words) -> str:
    if column is None:
        return ""
    mean, spread = column
    scale, form = (1, ".3g") if key in _TITLES else (words.scale, ".3g" if words.errors else ".1f")
    return f"{scale * mean:{form}}" + ("" if spread is None else f" ±{scale * spread:{form}}")
