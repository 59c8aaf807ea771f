"""A pair of inputs without an image: a bar plot of the features that differ most."""

from collections.abc import Sequence

from cheaplip.report.plots.figure import Figure, Plotly, layout, plain
from cheaplip.runs.numbers import three_digits

__all__ = ["pair_bars"]

_FEATURES = 24  # at most as many are shown
_NAMED = 340  # pixels of a plot with names below it, which need room


def pair_bars(name: str, u: Sequence[float], v: Sequence[float], names: Sequence[str], unit: str) -> Figure:
    """Plot both inputs and their difference, enlarged to the size of the inputs.

    Args:
        name: of the model that the pair belongs to.
        u, v: the features of both inputs.
        names: of the features; empty: they are numbered from 1.
        unit: of their values.
    """
    features = sorted(sorted(range(len(u)), key=lambda i: -abs(v[i] - u[i]))[:_FEATURES])
    largest = max(abs(v[feature] - u[feature]) for feature in features) or 1.0
    gain = (max(abs(value) for feature in features for value in (u[feature], v[feature])) or 1.0) / largest
    ticks = [f"{feature + 1}" for feature in features]
    texts = [plain(names[feature]) for feature in features] if names else ticks
    series = {
        "u": ([u[feature] for feature in features], "--s1"),
        "v": ([v[feature] for feature in features], "--s2"),
        f"v − u, ×{three_digits(gain)}": ([gain * (v[feature] - u[feature]) for feature in features], "--s0"),
    }
    data: list[Plotly] = [
        {
            "type": "bar",
            "name": label,
            "x": ticks,
            "y": heights,
            "marker": {"color": color},
            "customdata": texts,
            "hovertemplate": "feature %{customdata}: %{y:.3g}",
        }
        for label, (heights, color) in series.items()
    ]
    axes = layout("feature" if names else "feature (number of the column)", unit)
    axes["xaxis"] |= {"type": "category", "tickvals": ticks, "ticktext": texts, "automargin": True}
    axes |= {"barmode": "group", "showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    alt = f"Bar plot of the two inputs of the steepest pair of {name}, feature by feature, and of their difference."
    return Figure("Both inputs and their difference", alt, data, axes, height=_NAMED if names else None)
