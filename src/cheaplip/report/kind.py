"""What a page's main figure is, and how it is told: an accuracy, or a regression's error in the label's units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.report.wording import figure, percent

__all__ = ["Kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """The words of classification or regression.

    Attributes:
        errors: whether the main figure is an error: small is good, no bound above.
        section: where it lies in a row.
        noun: what it is called.
        unit: of errors, such as the label's column; "" where unknown, or for accuracies.
    """

    errors: bool
    section: str
    noun: str
    unit: str = ""

    @property
    def better(self) -> int:
        """+1 where more is better."""
        return -1 if self.errors else 1

    @property
    def scale(self) -> float:
        """From a figure to what a plot shows."""
        return 1.0 if self.errors else 100.0

    @property
    def head(self) -> str:
        """The second line of a table's head."""
        return f"{self.noun}, {self.unit}" if self.unit else self.noun

    def axis(self, what: str) -> str:
        """The title of a plot's axis."""
        return f"{what} {self.noun} ({self.unit or 'units of the label' if self.errors else '%'})"

    def write(self, value: float) -> str:
        """A figure as a cell shows it."""
        return figure(value) if self.errors else percent(value)

    def tell(self, value: float) -> str:
        """A figure in a sentence."""
        if not self.errors:
            return percent(value)
        return f"{figure(value)} in {self.unit}" if self.unit else figure(value)


def kind_of(rows: Sequence[Mapping[str, Any]], configs: Sequence[Mapping[str, Any]]) -> Kind:
    """The kind of a study, from its rows and its runs' configurations."""
    if any("rmse" in row for row in rows) or any(config.get("task") == "regression" for config in configs):
        labels = [label for config in configs if isinstance(label := config.get("label"), str)]
        return Kind(True, "rmse", "RMSE", labels[0] if labels else "")
    return Kind(False, "accuracy", "accuracy")
