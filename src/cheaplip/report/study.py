"""What a page shows, as data: a study, its runs, and the experiment of the paper that it repeats, if any."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cheaplip.report.methods import STEERED
from cheaplip.runs.words import Words, words_of

__all__ = ["Experiment", "Run", "Study", "number", "numbers", "section"]

_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


@dataclass(frozen=True)
class Run:
    """One trained model: its row of figures, and what its own folder adds, where there is one.

    Attributes:
        name: of its configuration; the runs of several seeds share it.
        row: as in ``results.json``; keys may be missing.
        config, history, exhibits: the content of ``config.json``, ``history.jsonl`` and ``report.json``; empty where
            the file is missing.
        folder: the name of the run's folder, for messages.
        problems: what could not be read, a sentence each.
    """

    name: str
    row: Mapping[str, Any]
    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    exhibits: Mapping[str, Any]
    folder: str
    problems: tuple[str, ...]

    @property
    def method(self) -> str:
        """Its training method; ``""`` where unknown."""
        return str(self.row.get("method") or self.config.get("method") or "")

    @property
    def target(self) -> float | None:
        """The accuracy or error that its λ was steered to; None where nothing was steered."""
        has_lam = self.row.get("lam") is not None or any(line.get("lam") is not None for line in self.history)
        if self.method and self.method not in STEERED and not has_lam:
            return None
        return number(self.row.get("target", self.config.get("target")))

    @property
    def target_on(self) -> str:
        """The part of the data on which the target had to be met: ``train`` or ``validation``."""
        on = self.row.get("target_on") or self.config.get("target_on")
        return "validation" if on == "validation" else "train"

    @property
    def balanced(self) -> bool:
        """Whether its target is one for the balanced accuracy."""
        return section(self.row, "aim").get("figure") == "balanced_accuracy"

    @property
    def seed(self) -> str:
        """Its seed; ``"?"`` where unknown."""
        seed = self.row.get("seed", self.config.get("seed"))
        return "?" if seed is None else str(seed)

    @property
    def unit(self) -> str:
        """The unit of the features that the network sees."""
        return "standard deviations" if self.exhibits.get("scaling") == "standard" else "units of the input"

    def names(self, kind: str, count: int) -> tuple[str, ...]:
        """The names of the ``classes`` or ``features``; empty unless the data named exactly ``count`` of them."""
        found = self.exhibits.get(kind)
        fits = isinstance(found, list) and len(found) == count and all(isinstance(name, str) for name in found)
        return tuple(found) if fits else ()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Experiment:
    """The experiment of the paper that a study repeats, as ``experiment.json`` says it.

    Attributes:
        name: on the command line of ``cheaplip reproduce``.
        quick: whether it is the small version.
        versions: of the packages that made the rows.
    """

    name: str
    quick: bool
    versions: Mapping[str, Any]

    @property
    def data(self) -> str:
        """The data set that the rows of a table were trained on; ``""`` for other experiments."""
        return {"table1-mnist": "MNIST", "table1-fashion-mnist": "Fashion-MNIST", "readme": "MNIST"}.get(self.name, "")


@dataclass(frozen=True)
class Study:
    """All that one page shows: the rows of a comparison or of an experiment, or a single run.

    Attributes:
        folder: where it was read.
        runs: in the order of the table.
        alone: whether it is a single run.
        command: the command that made it; None where it was not recorded.
        problems: what could not be read, a sentence each.
        experiment: of the paper, if it repeats one.
        left_out: for each method that was left out of a comparison of all methods the reason. None: it is no such
            comparison.
    """

    folder: Path
    runs: tuple[Run, ...]
    alone: bool
    command: str | None = None
    problems: tuple[str, ...] = ()
    experiment: Experiment | None = None
    left_out: Mapping[str, str] | None = None

    @property
    def data(self) -> str:
        """What the runs were trained on; ``""`` where unknown."""
        if self.experiment is not None:
            return self.experiment.data
        names = [str(run.config["data"]) for run in self.runs if run.config.get("data")]
        return _TITLES.get(names[0], Path(names[0]).name) if names else ""

    @property
    def words(self) -> Words:
        """The words of its task: of accuracies, or of errors."""
        return words_of([run.row for run in self.runs], [run.config for run in self.runs])

    @property
    def title(self) -> str:
        """The name of the data, or else of the folder."""
        return self.data or self.folder.resolve().name


def number(value: Any) -> float | None:
    """``value`` as a finite float; None for anything else, NaN and infinities included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def numbers(values: Any) -> list[float]:
    """``values`` as a list of finite floats; empty if it is not a list, or if one of them is not finite."""
    found = [number(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None] if None not in found else []


def section(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under ``key``; empty where there is none, or something else than an object."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}
