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
from cheaplip.training.steering import check_target
from cheaplip.training.tasks import task_of

__all__ = ["Compare"]


@dataclass(frozen=True, kw_only=True)
class _SharedOptions(TrainConfig):
    method: Annotated[str, tyro.conf.Suppress] = "clip"
    seed: Annotated[int, tyro.conf.Suppress] = 0


@dataclass(frozen=True, kw_only=True)
class Compare(TrackingOptions):
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
    certify: str | None = None
    """radii (L2) to prove the accuracy at, separated by commas; unset: nothing is certified"""
    samples: int | None = None
    """attack the first so many test inputs; unset: all, and 1000 for autoattack"""
    overwrite: bool = False
    """start afresh where --out holds a comparison already"""
    json: bool = False
    """print the rows as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Train and attack, then print the table."""
        self.trackers(RunFolder(self.out))  # so that a missing package is told before anything is replaced
        data = load_data(self.config)
        methods = parse_methods(self.methods)
        seeds = parse_seeds(self.seeds)
        attacks = self._attacks(data)
        certify_at = [] if self.certify is None else parse_radii("certify", self.certify)
        shared = {field.name: getattr(self.config, field.name) for field in fields(TrainConfig)}
        configs = {method: TrainConfig(**{**shared, "method": method}) for method in methods}
        for config in configs.values():
            check_target(config, data)
        build(self.config.model, data.shape, data.outputs)  # so that a bad model fails before anything is replaced
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
            Attack(name, epsilon, self.samples or (1000 if name == "autoattack" else None))
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
