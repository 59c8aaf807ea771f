"""The words of a task: what its main figure is called, which direction is better, and how its values are written.

The command line and the report share them. They know a run by its JSON files alone: no model, no data set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cheaplip.runs.numbers import percent, three_digits

__all__ = ["ACCURACY", "ERROR", "Words", "capitalised", "constant_in_words", "misses", "part_of_data", "words_of"]


@dataclass(frozen=True)
class Words:
    """The words of classification (accuracies) or of regression (errors).

    Attributes:
        figures: keys of ``metrics.json`` that hold a number for each part of the data, with their titles. The first is
            the main figure, the one that attacks and certificates are about.
        errors: True where the main figure is an error: smaller is better, and there is no largest value.
        comparison: what the title of a comparison's table says of its figures.
        certified: the words before a certified figure.
        constant: what a network is called that gives one answer for all inputs.
        unit: of an error, the name of the label's column; ``""`` where it is unknown, and for accuracies.
        standard: whether errors are in standard deviations of each of several labels, as these have different units.
    """

    figures: Mapping[str, str]
    errors: bool
    comparison: str
    certified: str
    constant: str
    unit: str = ""
    standard: bool = False

    @property
    def key(self) -> str:
        """The main figure's key in ``metrics.json``; in ``history.jsonl`` it follows ``train_`` or ``validation_``."""
        return next(iter(self.figures))

    @property
    def noun(self) -> str:
        """The main figure's name."""
        return self.figures[self.key]

    @property
    def better(self) -> int:
        """+1 where larger is better, -1 where smaller is."""
        return -1 if self.errors else 1

    @property
    def scale(self) -> float:
        """The factor from a value to its percentage, 100, or 1 for an error."""
        return 1.0 if self.errors else 100.0

    @property
    def percent_sign(self) -> str:
        """What follows a value multiplied by ``scale``."""
        return "" if self.errors else " %"

    def heading(self, figure: str) -> str:
        """The title of one of ``figures`` with its unit, for the heading of a column."""
        title = self.figures[figure]
        unit = _DEVIATIONS if self.standard else self.unit
        return f"{title}, {unit}" if unit else title

    def axis(self, what: str) -> str:
        """The title of a plot's axis, such as ``test accuracy (%)``."""
        unit = _DEVIATIONS if self.standard else self.unit or "units of the label"
        return f"{what} {self.noun} ({unit if self.errors else '%'})"

    def exact(self, value: float) -> str:
        """Write a value for a terminal: a percentage with two decimals, or an error with five significant digits."""
        return f"{value:.5g}" if self.errors else f"{100 * value:.2f} %"

    def short(self, value: float) -> str:
        """Write a value for a table of a page: a percentage with one decimal, or three significant digits."""
        return three_digits(value) if self.errors else percent(value)

    def in_text(self, value: float) -> str:
        """Write a value for a sentence: as in a table, with the unit of an error."""
        if self.standard:
            return f"{self.short(value)} {_DEVIATIONS}"
        return f"{self.short(value)} in {self.unit}" if self.unit else self.short(value)


_DEVIATIONS = "standard deviations"

ACCURACY = Words(
    {"accuracy": "accuracy"},
    errors=False,
    comparison="accuracies in %",
    certified="certified",
    constant="one class for all inputs",
)
ERROR = Words(
    {"rmse": "RMSE", "mae": "MAE"},
    errors=True,
    comparison="errors: RMSE, in the label's units",
    certified="RMSE at most",
    constant="one number for all inputs",
)


def words_of(rows: Iterable[Mapping[str, Any]], configs: Iterable[Mapping[str, Any]] = ()) -> Words:
    """Choose the words for runs of one task.

    Args:
        rows: their ``metrics.json``, or rows of ``results.json``.
        configs: their ``config.json``, as far as there are any; they name the unit of an error, and tell the task where
            nothing has been measured yet.
    """
    rows, configs = list(rows), list(configs)
    if any("rmse" in row for row in rows) or any(config.get("task") == "regression" for config in configs):
        if any("rmse_of_outputs" in row for row in rows):
            return replace(ERROR, comparison="errors: RMSE, in standard deviations of each label", standard=True)
        labels = (label for config in configs if isinstance(label := config.get("label"), str))
        return replace(ERROR, unit=next(labels, ""))
    return ACCURACY


def misses(target: float, reached: float, *, errors: bool) -> bool:
    """Return whether a target was missed by so much that it is told: two points of accuracy, or a tenth of an error."""
    return reached > 1.1 * target if errors else reached < target - 0.02


def constant_in_words(row: Mapping[str, Any]) -> str:
    """Say which answer a network gives for all inputs but those of training; "" for one that gives different answers.

    Args:
        row: its ``metrics.json``, or its row of ``results.json``.
    """
    answer = row.get("constant_answer")
    if not isinstance(answer, str) or not answer:
        return ""
    if "rmse" in row:
        return f"It predicts {answer} for all inputs of the test and validation data: it has learnt only a constant."
    return (
        f"It predicts one class, {answer!r}, for all inputs of the test and validation data: it tells no two of them "
        "apart."
    )


def capitalised(text: str) -> str:
    """Write text as it stands at the start of a sentence."""
    return f"{text[:1].upper()}{text[1:]}"


def part_of_data(part: str) -> str:
    """Name a part of the data as an adjective: training, validation or test."""
    return "training" if part == "train" else part
