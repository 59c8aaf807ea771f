"""The predictions of a regression against the labels, a point for each test input."""

from dataclasses import dataclass

from cheaplip.report.plots.figure import Figure, Plotly, layout
from cheaplip.report.study import numbers, section
from cheaplip.report.table import Group

__all__ = ["Predictions", "predictions"]


@dataclass(frozen=True)
class Predictions:
    """The plot of a configuration's first run; ``missing`` says why there is none."""

    group: Group
    seed: str
    plot: Figure | None = None
    missing: str = ""


def predictions(group: Group, unit: str) -> Predictions:
    """Plot predictions against labels, of the first output.

    Args:
        group: a configuration.
        unit: of the labels; ``""`` where unknown.
    """
    run = group.runs[0]
    kept = section(run.exhibits, "answers")
    label, predicted = (_first(kept.get(name)) for name in ("label", "prediction"))
    if not label or len(label) != len(predicted):
        return Predictions(group, run.seed, missing=f"No predictions in {run.folder}/report.json.")
    ends = [min(*label, *predicted), max(*label, *predicted)]
    data: list[Plotly] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "test inputs",
            "x": label,
            "y": predicted,
            "marker": {"color": group.color, "symbol": group.symbol, "size": 6, "opacity": 0.6},
            "hovertemplate": "%{x:.4g}, predicted %{y:.4g}",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "no error",
            "x": ends,
            "y": ends,
            "line": {"color": "--muted", "width": 1, "dash": "dash"},
            "hoverinfo": "skip",
        },
    ]
    axes = layout(f"label ({unit or 'its units'})", f"prediction ({unit or 'its units'})")
    alt = f"Scatter plot of the predictions of {group.name} against the labels of {len(label)} test inputs."
    return Predictions(group, run.seed, Figure("Predictions and labels", alt, data, axes, "Dashed: no error."))


def _first(outputs: object) -> list[float]:
    """The values of the first output; empty unless they are all finite numbers."""
    return numbers(outputs[0]) if isinstance(outputs, list) and outputs else []
