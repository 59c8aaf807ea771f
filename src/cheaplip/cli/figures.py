"""How the figures of a classifier and of a regression are written: accuracies in percent, errors in their own units."""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Wording", "wording"]


class Wording(NamedTuple):
    """The words and numbers of one task.

    Attributes:
        figures: keys of ``metrics.json`` that hold a figure for each part of the data, and their titles; the first is
            what attacks and certificates are about.
        title: of the table of a comparison.
        certified: what a certificate says of the first figure.
        scale, digits, unit: of its values.
    """

    figures: dict[str, str]
    title: str
    certified: str
    scale: float
    digits: str
    unit: str

    @property
    def main(self) -> str:
        """The title of the first figure."""
        return next(iter(self.figures.values()))

    def write(self, value: float) -> str:
        """A figure with its unit."""
        return f"{self.scale * value:{self.digits}}{self.unit}"


_ACCURACY = Wording({"accuracy": "accuracy"}, "accuracies in %", "certified", 100.0, ".2f", " %")
_ERROR = Wording({"rmse": "RMSE", "mae": "MAE"}, "errors: RMSE, in the label's units", "RMSE at most", 1.0, ".5g", "")


def wording(metrics: Mapping[str, Any]) -> Wording:
    """The words for a run's metrics, or a row of a comparison."""
    return _ERROR if "rmse" in metrics else _ACCURACY
