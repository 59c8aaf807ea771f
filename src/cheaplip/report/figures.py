"""The plots, as plain data for plotly.js; colours are names of the page's CSS variables, which know day and night."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.report.read import Run, number
from cheaplip.report.table import Column, Group, cell
from cheaplip.report.wording import attack_key, attack_title, figure, is_noise, percent, strength

__all__ = ["Figure", "plane", "robustness", "training", "values"]

Plotly = dict[str, Any]

_LABELLED = 6  # more lines than that are not labelled at their ends
_GAP = 6.5  # points between two such labels
_STEEP = 20  # largest over smallest from which an axis is logarithmic
_WIDE = 100  # and from which only powers of ten are labelled


@dataclass(frozen=True)
class Figure:
    """A plot: its title, what it shows in words for those who cannot see it, and plotly's data and layout."""

    title: str
    alt: str
    data: list[Plotly]
    layout: Plotly
    note: str = ""

    def json(self) -> Plotly:
        """What the page's script draws."""
        return {"data": self.data, "layout": self.layout}


def robustness(rows: Sequence[Group], columns: Sequence[Column], test: Column) -> list[Figure]:
    """Accuracy against perturbation size, a plot for each attack, strongest first.

    The certified curve joins the first attack's plot, or stands alone where nothing was attacked.
    """
    measured: dict[str, list[tuple[float, Column]]] = {}
    for column in columns:
        if column.path[0] == "robust" and (parsed := attack_key(column.path[1])):
            measured.setdefault(parsed[0], []).append((parsed[1], column))
    certified = [(float(column.path[1]), column) for column in columns if column.path[0] == "certified"]
    names = sorted(measured, key=strength)
    beside = next((name for name in names if not is_noise(name)), None)
    plots = [
        _attacked(name, rows, [(0.0, test), *measured[name]], certified if name == beside else []) for name in names
    ]
    return [_attacked("", rows, [], certified), *plots] if certified and beside is None else plots


def _attacked(
    name: str, rows: Sequence[Group], points: Sequence[tuple[float, Column]], certified: Sequence[tuple[float, Column]]
) -> Figure:
    data: list[Plotly] = []
    ends: list[tuple[Group, float]] = []
    told: list[str] = []
    for group in rows:
        if curve := _curve(group, sorted(points, key=lambda point: point[0])):
            data.append(_line(group, *curve, error=_spreads(group, points)))
            ends.append((group, curve[1][-1]))
            told.append(f"{group.name} from {figure(curve[1][0])} % to {figure(curve[1][-1])} %")
        if proved := _curve(group, certified):
            data.append({**_line(group, *proved), "name": f"{plain(group.name)}, certified"})
            data[-1]["line"] |= {"dash": "dot", "width": 3}
            data[-1]["marker"] |= {"symbol": f"{group.symbol}-open"}
            told.append(f"{group.name} certified from {figure(proved[1][0])} % to {figure(proved[1][-1])} %")
    size = "noise σ (units of the input)" if is_noise(name) else "ε, L2 (units of the input)"
    furthest = max((point for point, _ in (*points, *certified)), default=1.0) or 1.0
    layout = _layout(size, "test accuracy (%)")
    layout["xaxis"] |= {
        "range": [-0.03 * furthest, 1.03 * furthest],
        "tickvals": sorted({x for x, _ in points or certified}),
    }
    layout["yaxis"] |= {"range": [-3, 103], "dtick": 25}
    if len(ends) <= _LABELLED:
        layout["annotations"] = _end_labels(ends)
        layout["margin"] = {"r": 14 + 7 * max((len(_end_text(group, value)) for group, value in ends), default=0)}
    title = f"Accuracy under {attack_title(name)}" if name else "Certified accuracy"
    note = "Dotted: certified, which no attack can beat." if certified else ""
    return Figure(
        title,
        f"Line plot of size of the perturbation against accuracy. {title}: {'; '.join(told)}.",
        data,
        layout,
        note,
    )


def _curve(group: Group, points: Iterable[tuple[float, Column]]) -> tuple[list[float], list[float]] | None:
    found = [(x, 100 * measured.mean) for x, column in points if (measured := cell(column, group.runs))]
    return ([x for x, _ in found], [y for _, y in found]) if found else None


def _spreads(group: Group, points: Iterable[tuple[float, Column]]) -> list[float]:
    cells = [cell(column, group.runs) for _, column in sorted(points, key=lambda point: point[0])]
    return [100 * (found.spread or 0) for found in cells if found]


def _end_text(group: Group, value: float) -> str:
    return f"{group.name} {value:.0f}\u202f%"


def _end_labels(ends: Sequence[tuple[Group, float]]) -> list[Plotly]:
    """Names at the ends of their lines, moved apart where they would overlap."""
    ranked = sorted(ends, key=lambda end: end[1])
    places: list[float] = []
    for _, value in ranked:
        places.append(max(value, places[-1] + _GAP) if places else value)
    excess = max(0.0, places[-1] - 100) if places else 0.0
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], 100 - _GAP * (len(places) - 1 - index)) if excess else places[index]
    return [
        {
            "x": 1,
            "xref": "paper",
            "y": place,
            "xanchor": "left",
            "xshift": 6,
            "showarrow": False,
            "text": plain(_end_text(group, value)),
            "font": {"color": group.color},
        }
        for (group, value), place in zip(ranked, places, strict=True)
    ]


def plane(rows: Sequence[Group], attack: Column, test: Column) -> Figure | None:
    """Test accuracy against accuracy under attack: up and to the right is better; a point for each run."""
    data: list[Plotly] = []
    told = []
    for group in rows:
        both = [(attack.of(run), test.of(run)) for run in group.runs]
        pairs = [(100 * x, 100 * y) for x, y in both if x is not None and y is not None]
        if not pairs:
            continue
        x, y = [x for x, _ in pairs], [y for _, y in pairs]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(group.name),
                "x": x,
                "y": y,
                "marker": {"color": group.color, "symbol": group.symbol, "size": 11, "opacity": 0.85},
                "hovertemplate": "%{x:.1f} % attacked, %{y:.1f} % left alone",
            }
        )
        told.append(f"{group.name} at {figure(sum(x) / len(x))} % attacked and {figure(sum(y) / len(y))} % left alone")
    if not data:
        return None
    layout = _layout(f"accuracy under {attack.title}, {attack.unit} (%)", "test accuracy (%)")
    layout["xaxis"]["range"], layout["yaxis"]["range"] = (_frame(trace[axis] for trace in data) for axis in ("x", "y"))
    note = "Up and to the right is better. A point is a run."
    return Figure("Accuracy against robustness", f"Scatter plot: {'; '.join(told)}.", data, layout, note)


def _frame(series: Iterable[Sequence[float]]) -> list[float]:
    """A range around all values with air, at least 4 points wide, within 0 and 100 and a little beyond."""
    flat = [value for values in series for value in values]
    air = max(2.0, 0.12 * (max(flat) - min(flat)))
    return [max(-3.0, min(flat) - air), min(103.0, max(flat) + air)]


def training(rows: Sequence[Group]) -> list[Figure]:
    """Accuracies, loss, λ and largest quotient over the epochs, as far as the histories hold them."""
    targets = sorted({group.target for group in rows if group.target is not None})
    plots = [
        _history(
            rows, "Accuracy in training", "training accuracy (%)", ("train_accuracy",), targets=targets, scale=100
        ),
        _history(rows, "Accuracy on validation data", "validation accuracy (%)", ("validation_accuracy",), scale=100),
        _history(rows, "Loss", "loss (nats)", ("loss",)),
        _history(
            rows,
            "Largest quotient",
            "quotient (L2 ÷ L2)",
            ("lower", "largest"),
        ),
        _history(rows, "λ, the penalty’s weight", "λ or μ (no unit)", ("lam",)),
    ]
    return [plot for plot in plots if plot is not None]


def _history(
    rows: Sequence[Group],
    title: str,
    axis: str,
    keys: tuple[str, ...],
    *,
    targets: Sequence[float] = (),
    scale: float = 1.0,
) -> Figure | None:
    data, told = [], []
    for group in rows:
        for place, key in enumerate(keys):
            for run in group.runs:
                epochs, series = _series(run, key, scale)
                if not any(value is not None for value in series):
                    continue
                label = f"{group.name}, seed {run.seed}" + (" (pairs)" if place else "")
                trace = _line(group, epochs, series, markers=len(epochs) == 1)
                trace |= {"name": plain(label)}
                trace["line"] |= {"width": 1.6} | ({"dash": "dot"} if place else {})
                data.append(trace)
                if run is group.runs[0] and place == 0:
                    last = next(value for value in reversed(series) if value is not None)
                    told.append(f"{group.name} ends at {figure(last)}")
    if not data:
        return None
    layout = _layout("epoch", axis)
    layout["xaxis"] |= {"rangemode": "tozero"}
    shown = [value for trace in data for value in trace["y"] if value is not None]
    if scale == 100:
        layout["yaxis"]["range"] = _settled(data, [100 * target for target in targets])
        layout |= _target_lines(targets)
    elif min(shown) > 0 and max(shown) / min(shown) > _STEEP:
        dense = max(shown) / min(shown) < _WIDE
        layout["yaxis"] |= {"type": "log", "dtick": "D2" if dense else 1, "exponentformat": "power"}
        layout["yaxis"]["title"] = {"text": f"{axis}, log"}
    if targets:
        told.append("target " + " and ".join(percent(target) for target in targets))
    return Figure(title, f"Line plot over epochs, {title}: {'; '.join(told)}.", data, layout)


def _series(run: Run, key: str, scale: float) -> tuple[list[float], list[float | None]]:
    """The epochs and values of a key; None, a gap in the line, where a value is missing."""
    epochs, series = [], []
    for place, line in enumerate(run.history, start=1):
        value = number(line.get(key))
        epochs.append(number(line.get("epoch")) or float(place))
        series.append(None if value is None else scale * value)
    return epochs, series


def _settled(data: Sequence[Plotly], targets: Sequence[float]) -> list[float]:
    """A range that shows where accuracies settle, and leaves the first epochs below the frame."""
    late = [value for trace in data for value in trace["y"][len(trace["y"]) // 3 :] if value is not None]
    low, high = min([*late, *targets], default=0.0), max([*late, *targets], default=100.0)
    air = max(0.5, 0.08 * (high - low))
    return [max(-3.0, low - air), min(high + air, 103.0)]


def _target_lines(targets: Sequence[float]) -> Plotly:
    return {
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 100 * target,
                "y1": 100 * target,
                "line": {"color": "--muted", "width": 1, "dash": "dash"},
            }
            for target in targets
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 0,
                "y": 100 * target,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "text": f"target {100 * target:g}\u202f%",
                "font": {"color": "--muted", "size": 11},
            }
            for target in targets
        ],
    }


def values(name: str, u: Sequence[float], v: Sequence[float], features: Sequence[int]) -> Figure:
    """The witness pair of tabular data: both inputs and, enlarged to their size, the difference."""
    largest = max(abs(v[feature] - u[feature]) for feature in features) or 1.0
    gain = (max(abs(value) for feature in features for value in (u[feature], v[feature])) or 1.0) / largest
    ticks = [f"{feature + 1}" for feature in features]
    series = {
        "u": ([u[feature] for feature in features], "--s1"),
        "v": ([v[feature] for feature in features], "--s2"),
        f"v − u, ×{figure(gain)}": ([gain * (v[feature] - u[feature]) for feature in features], "--s0"),
    }
    data: list[Plotly] = [
        {
            "type": "bar",
            "name": label,
            "x": ticks,
            "y": heights,
            "marker": {"color": color},
            "hovertemplate": "feature %{x}: %{y:.3g}",
        }
        for label, (heights, color) in series.items()
    ]
    layout = _layout("feature (number of the column)", "value (units of the input)")
    layout["xaxis"] |= {"type": "category", "nticks": len(ticks)}
    layout |= {"barmode": "group", "showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    alt = f"Bar plot of the two inputs of the steepest pair of {name}, feature by feature, and of their difference."
    return Figure("Both inputs and their difference", alt, data, layout)


def _line(
    group: Group,
    x: Sequence[float],
    y: Sequence[float | None],
    *,
    error: Sequence[float] = (),
    markers: bool = True,
) -> Plotly:
    trace: Plotly = {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": plain(group.name),
        "x": list(x),
        "y": list(y),
        "connectgaps": False,
        "line": {"color": group.color, "width": 2, "dash": group.dash},
        "marker": {"color": group.color, "symbol": group.symbol, "size": 8},
        "hovertemplate": "%{y:.4g}",
    }
    if any(error):
        trace["error_y"] = {"array": list(error), "color": group.color, "thickness": 1, "width": 3}
    return trace


def _layout(x: str, y: str) -> Plotly:
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "showlegend": False,
        "hovermode": "closest",
    }


def plain(text: str) -> str:
    """Text as plotly.js should show it: it reads tags otherwise."""
    return html.escape(text, quote=False)
