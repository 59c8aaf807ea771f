"""``cheaplip compare``."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from rich.table import Table

from cheaplip.cli.console import (
    Interrupt,
    attack_bar,
    messages,
    print_json,
    progress_display,
    show_description,
    show_table,
    training_bar,
)
from cheaplip.cli.options import (
    ALL_METHODS,
    check_samples,
    command_line,
    load_data,
    parse_methods,
    parse_names,
    parse_norm,
    parse_radii,
    parse_seeds,
)
from cheaplip.cli.report import finish_with_report
from cheaplip.cli.tracking import TrackingOptions
from cheaplip.data import Data
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.words import Words, words_of
from cheaplip.trained.compare import Attack, compare, summarise
from cheaplip.trained.evaluate import check_norm
from cheaplip.trained.rivals import LEFT_OUT, Field, field_of, rivals
from cheaplip.training.config import TrainConfig
from cheaplip.training.models import build
from cheaplip.training.tasks import task_of

__all__ = ["CompareCommand", "comparison_table"]

_ON_REQUEST = ("fgsm", "fmn", "blur", "brightness")
_SLOW_SAMPLES = 1000  # inputs attacked by AutoAttack, which is slow, unless the user says how many


@dataclass(frozen=True, kw_only=True)
class _ComparedConfig(TrainConfig):
    """The options of all runs of a comparison; methods and seeds are options of the command."""

    method: Annotated[str, tyro.conf.Suppress] = "clip"
    seed: Annotated[int, tyro.conf.Suppress] = 0


@dataclass(frozen=True, kw_only=True)
class CompareCommand(TrackingOptions):
    """Train several methods on the same data, attack the trained models, and print one table."""

    name: ClassVar[str] = "compare"

    config: _ComparedConfig
    out: Path
    """the folder for all runs and results.json; an interrupted comparison continues there"""
    methods: str = "plain,weight,clip,adversarial"
    """the training methods, separated by commas; all: every one that fits the data and the model"""
    seeds: str = "0"
    """the seeds to train each method with, separated by commas"""
    attacks: str | None = None
    """the attacks, separated by commas; unset: all that work on the data, except fgsm, fmn, blur and brightness"""
    epsilon: str | None = None
    """radii of the attacks, separated by commas, such as 0.5,8/255; unset: a default that suits the data"""
    norm: str = "2"
    """norm of the radii of the attacks: 2, or inf where each feature moves by at most epsilon"""
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
        started = [] if self.overwrite else sorted(self.out.glob("*-seed*/data.json"))
        data = load_data(self.config, RunFolder(started[0].parent) if started else None)
        methods, seeds, attacks = parse_methods(self.methods), parse_seeds(self.seeds), self._attacks(data)
        certify_at = self._certify_at(data)
        shared = {field.name: getattr(self.config, field.name) for field in fields(TrainConfig)}
        if self.config.named_target is not None:
            task_of(data).target_score(self.config.named_target, data.train.y)
        build(self.config.model, data.shape, data.outputs)  # a bad model must be reported before anything is replaced
        if self._leaves_out:
            field = field_of(TrainConfig(**shared), methods, data)
            trained = partial(rivals, field)
        else:
            configs = {method: TrainConfig(**{**shared, "method": method}) for method in methods}
            trained = partial(compare, configs)
        show_description(data)
        with progress_display() as bar:
            rows = trained(
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
            show_table(comparison_table(self.config.data, rows))
            messages.print(f"rows: {self.out / 'results.json'}", soft_wrap=True)
        if self._leaves_out:
            self._tell_left_out(field)
        finish_with_report(RunFolder(self.out), command_line(self.name, self))

    @property
    def _leaves_out(self) -> bool:
        """Whether a method that does not fit is left out, and told, instead of being an error."""
        return self.methods.strip() == ALL_METHODS

    def _tell_left_out(self, field: Field) -> None:
        for method, reason in RunFolder(self.out).read_json(LEFT_OUT).items():
            messages.print(f"left out: {method}: {reason}", soft_wrap=True, markup=False)
        if field.unproved:
            messages.print(f"nothing is certified: {field.unproved}", soft_wrap=True, markup=False)

    def _attacks(self, data: Data) -> list[Attack]:
        check_samples(self.samples)
        norm = parse_norm(self.norm)
        check_norm(data, norm, self.epsilon is not None)
        applicable = task_of(data).attacks(data.domain, norm)
        names = self._usual(applicable) if self.attacks is None else parse_names("attacks", self.attacks, applicable)
        radii = self._radii(data) if self.epsilon is None else parse_radii("epsilon", self.epsilon)
        deviations = [data.noise] if self.noise is None else parse_radii("noise", self.noise)
        return [
            Attack(
                name,
                epsilon,
                self.samples or (_SLOW_SAMPLES if name == "autoattack" else None),
                2 if name == "noise" else norm,
            )
            for name in names
            for epsilon in (deviations if name == "noise" else radii)
        ]

    def _usual(self, applicable: Sequence[str]) -> list[str]:
        """The attacks to use unless the user says which, of those that work on the data."""
        return [name for name in applicable if name not in _ON_REQUEST]

    def _radii(self, data: Data) -> list[float]:
        """The radii of attacks unless the user says which."""
        return [data.epsilon]

    def _certify_at(self, data: Data) -> list[float]:  # noqa: ARG002 - other commands look at the data
        return [] if self.certify is None else parse_radii("certify", self.certify)


_TITLES = {
    "lower": "largest quotient",
    "upper": "upper bound",
    "tracking": "tracking",
    "lam": "λ",
    "seconds_per_epoch": "s/epoch",
    "seconds_relative": "× plain",
    "peak_memory": "MiB",
}
_MEBIBYTE = 2**20


def comparison_table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Make the table of a comparison, with a note on networks that give one answer for all inputs.

    Args:
        name: of the data.
        rows: those of ``results.json``.
    """
    summaries, words = summarise(rows), words_of(rows)
    keys = list(dict.fromkeys(key for summary in summaries for key in summary.columns))
    keys.sort(key=lambda key: list(_TITLES).index(key) if key in _TITLES else -1)
    table = Table(title=f"{name} ({words.comparison})")
    table.add_column("method")
    for key in keys:
        table.add_column(_TITLES.get(key, key), justify="right")
    constant = {row["name"] for row in rows if row.get("constant_answer")}
    if constant:
        table.add_column("note")
    for summary in summaries:
        note = (words.constant if summary.name in constant else "",) if constant else ()
        table.add_row(summary.name, *(_cell(key, summary.columns.get(key), words) for key in keys), *note)
    return table


def _cell(key: str, column: tuple[float, float | None] | None, words: Words) -> str:
    if column is None:
        return ""
    mean, spread = column
    if key == "peak_memory":
        return f"{mean / _MEBIBYTE:.0f}"
    scale, form = (1, ".3g") if key in _TITLES else (words.scale, ".3g" if words.errors else ".1f")
    return f"{scale * mean:{form}}" + ("" if spread is None else f" ±{scale * spread:{form}}")
