"""``cheaplip frontier``."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cheaplip.cli.console import Interrupt, messages, print_json, show_table, units_display
from cheaplip.cli.options import (
    check_jobs,
    check_samples,
    command_line,
    load_data,
    parse_fractions,
    parse_norm,
    parse_numbers,
    parse_shard,
    usual_jobs,
)
from cheaplip.cli.report import finish_with_report
from cheaplip.data import Data
from cheaplip.errors import ConfigError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.words import words_of
from cheaplip.trained.frontier import MARGIN_METHODS, Frontier, frontier, points_of, usual_attacks
from cheaplip.trained.rivals import field_of
from cheaplip.training.config import TrainConfig
from cheaplip.training.models import build
from cheaplip.training.options import check_positive

__all__ = ["FrontierCommand"]


@dataclass(frozen=True, kw_only=True)
class _SharedConfig(TrainConfig):
    """The options of all networks of a frontier; what they give up is an option of the command."""

    method: Annotated[str, tyro.conf.Suppress] = "clip"
    give_up: Annotated[float | str, tyro.conf.Suppress] = "0.5%"
    reference: Annotated[str | None, tyro.conf.Suppress] = None
    target: Annotated[float | str | None, tyro.conf.Suppress] = "unset"


@dataclass(frozen=True, kw_only=True)
class FrontierCommand:
    """Show what stability costs in accuracy: a curve over what is given up, or over margins, beside plain training.

    If it is interrupted, the same command continues. With --shard, several machines fill one folder.
    """

    config: _SharedConfig
    out: Path
    """the folder for all networks, results.json and report.html"""
    give_up: str = "0,0.5%,1%,2%"
    """what is given up of a plain network's accuracy on validation data, separated by commas"""
    margins: str | None = None
    """margins of scale-free and certified, separated by commas, in place of --give-up: by how much the true class is to
    lead over the constant, √2 × a distance between inputs"""
    epsilon: str | None = None
    """radius of the attack, PGD, such as 0.5 or 8/255; unset: a default that suits the data"""
    norm: str = "2"
    """norm of the radius: 2, or inf where each feature moves by at most epsilon"""
    noise: float | None = None
    """standard deviation of the noise; unset: a default that suits the data"""
    samples: int | None = None
    """number of test inputs to attack, from the first; unset: all"""
    jobs: int | None = None
    """networks to train at the same time, each in a process of its own; unset: one for each core, at most 8; 1 with a
    GPU"""
    shard: str = "1/1"
    """the part of the networks to train, such as 2/4, the second of four, for an array of jobs"""
    json: bool = False
    """print the rows as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Train and attack the networks that are missing, then print the table."""
        check_samples(self.samples)
        check_jobs(self.jobs)
        check_positive("noise", self.noise)
        shard, amounts, margins = parse_shard(self.shard), parse_fractions("give-up", self.give_up), self._margins()
        amounts = [] if margins else amounts
        config = TrainConfig(**{field.name: getattr(self.config, field.name) for field in fields(TrainConfig)})
        points_of(config, amounts, margins)  # bad amounts must be reported before data are read or downloaded
        data = load_data(config)
        build(config.model, data.shape, data.outputs)  # a bad model must be reported before anything is written
        attacks = usual_attacks(
            data, noise=self.noise, epsilon=self._epsilon(), samples=self.samples, norm=parse_norm(self.norm)
        )
        methods = _that_fit(config, data) if margins else MARGIN_METHODS
        points = points_of(config, amounts, margins, methods)
        own = points[shard[0] - 1 :: shard[1]]
        with units_display({point.name: 1.0 for point in own}) as report:
            found = frontier(
                config,
                amounts,
                self.out,
                margins=margins,
                methods=methods,
                attacks=attacks,
                jobs=self.jobs or usual_jobs(),
                shard=shard,
                report=report,
                stop=interrupt,
            )
        if self.json:
            print_json(found.rows)
        elif found.rows:
            show_table(_table(config.data, found))
            messages.print(f"rows: {self.out / 'results.json'}", soft_wrap=True)
        if found.missing:
            sys.stderr.write(f"cheaplip: not finished yet: {', '.join(found.missing)}\n")
        if found.rows:
            finish_with_report(RunFolder(self.out), command_line("frontier", self))

    def _margins(self) -> list[float]:
        if self.margins is None:
            return []
        if self.give_up != type(self).give_up:
            raise ConfigError("margins: expected them in place of --give-up, got both: leave one of them out")
        margins = parse_numbers("margins", self.margins)
        for margin in margins:
            check_positive("margins", margin)
        return margins

    def _epsilon(self) -> float | None:
        if self.epsilon is None:
            return None
        found = parse_numbers("epsilon", self.epsilon)
        if len(found) > 1:
            raise ConfigError(f"epsilon: expected one radius, got {self.epsilon!r}: a frontier is about one")
        check_positive("epsilon", found[0])
        return found[0]


def _that_fit(config: TrainConfig, data: Data) -> tuple[str, ...]:
    """The methods with a margin that fit the model and the data; those that do not are told."""
    field = field_of(config, MARGIN_METHODS, data)
    for method, reason in field.left_out.items():
        messages.print(f"left out: {method}: {reason}", soft_wrap=True, markup=False)
    return tuple(field.configs)


def _table(name: str, found: Frontier) -> Table:
    words = words_of(found.rows)
    table = Table(title=f"{name} ({words.comparison})")
    over_margins = any(row.get("margin") is not None for row in found.rows)
    balanced = any("balanced_accuracy" in row for row in found.rows)
    columns = (
        *(("margin",) if over_margins else ("gives up", "balanced target" if balanced else "target")),
        *(("test, balanced",) if balanced else ()),
        f"test {words.noun}",
        *found.rows[0]["robust"],
        "largest quotient",
    )
    for column in ("network", *columns):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in found.rows:
        notes = [words.constant] if row.get("constant_answer") else []
        notes += ["the knee"] if row.get("knee") else []
        give_up, target, margin = row.get("give_up"), row["target"], row.get("margin")
        steered = ["" if give_up is None else f"{100 * give_up:g} %", "" if target is None else words.exact(target)]
        if over_margins:
            steered = ["" if margin is None else f"{margin:g}"]
        table.add_row(
            f"{row['name']}{' (' + ', '.join(notes) + ')' if notes else ''}",
            *steered,
            *((words.exact(row["balanced_accuracy"]["test"]),) if balanced else ()),
            words.exact(row[words.key]["test"]),
            *(words.exact(value) for value in row["robust"].values()),
            f"{row['lipschitz']['lower']:.3g}",
        )
    return table
