"""A regression's predictions against the labels, a point for each test input."""

from dataclasses import dataclass

from cheaplip.report.plot import Figure, Plotly, layout
from cheaplip.report.read import number, section
from cheaplip.report.table import Group

__all__ = ["Answers", "answers"]


@dataclass(frozen=True)
class Answers:
    """The plot of a configuration's first run; ``missing`` says why there is none."""

    group: Group
    seed: str
    plot: Figure | None = None
    missing: str = ""


def answers(group: Group, unit: str) -> Answers:
    """Predictions and labels of the first output."""
    run = group.runs[0]
    kept = section(run.exhibits, "answers")
    label, given = (_first(kept.get(name)) for name in ("label", "prediction"))
    if not label or len(label) != len(given):
        return Answers(group, run.seed, missing=f"No predictions in {run.folder}/report.json.")
    ends = [min(*label, *given), max(*label, *given)]
    data: list[Plotly] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "test inputs",
            "x": label,
            "y": given,
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
    return Answers(group, run.seed, Figure("Predicted and measured", alt, data, axes, "Dashed: no error."))


def _first(outputs: object) -> list[float]:
    values = outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], list) else []
    numbers = [number(value) for value in values]
    return [value for value in numbers if value is not None] if None not in numbers else []
