"""The plots of accuracy, or error, against perturbation size, and against what is left under attack."""

from collections.abc import Iterable, Sequence

from cheaplip.report.kind import Kind
from cheaplip.report.plot import Figure, Plotly, layout, line, plain
from cheaplip.report.table import Column, Group, cell
from cheaplip.report.wording import attack_key, attack_title, figure, is_noise, strength

__all__ = ["plane", "robustness"]

_LABELLED = 6  # more lines than that are not labelled at their ends
_LONGEST = 26  # characters of such a label; longer ones would leave the plot no room
_GAP = 6.5  # points between two such labels


def robustness(rows: Sequence[Group], columns: Sequence[Column], test: Column, kind: Kind) -> list[Figure]:
    """Accuracy, or error, against perturbation size, a plot for each attack, strongest first.

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
        _attacked(name, rows, [(0.0, test), *measured[name]], certified if name == beside else [], kind)
        for name in names
    ]
    return [_attacked("", rows, [], certified, kind), *plots] if certified and beside is None else plots


def _attacked(
    name: str,
    rows: Sequence[Group],
    points: Sequence[tuple[float, Column]],
    certified: Sequence[tuple[float, Column]],
    kind: Kind,
) -> Figure:
    data: list[Plotly] = []
    ends: list[tuple[Group, float]] = []
    told: list[str] = []
    percents = "" if kind.errors else " %"
    for group in rows:
        if curve := _curve(group, sorted(points, key=lambda point: point[0]), kind):
            data.append(line(group, *curve, error=_spreads(group, points, kind)))
            ends.append((group, curve[1][-1]))
            told.append(f"{group.name} from {figure(curve[1][0])}{percents} to {figure(curve[1][-1])}{percents}")
        if proved := _curve(group, certified, kind):
            data.append({**line(group, *proved), "name": f"{plain(group.name)}, certified"})
            data[-1]["line"] |= {"dash": "dot", "width": 3}
            data[-1]["marker"] |= {"symbol": f"{group.symbol}-open"}
            told.append(
                f"{group.name} certified from {figure(proved[1][0])}{percents} to {figure(proved[1][-1])}{percents}"
            )
    size = "noise σ (units of the input)" if is_noise(name) else "ε, L2 (units of the input)"
    furthest = max((point for point, _ in (*points, *certified)), default=1.0) or 1.0
    axes = layout(size, kind.axis("test"))
    axes["xaxis"] |= {
        "range": [-0.03 * furthest, 1.03 * furthest],
        "tickvals": sorted({x for x, _ in points or certified}),
    }
    axes["yaxis"] |= {"rangemode": "tozero"} if kind.errors else {"range": [-3, 103], "dtick": 25}
    longest = max((len(_end_text(group, value)) for group, value in ends), default=0)
    if len(ends) <= _LABELLED and longest <= _LONGEST and not kind.errors:
        axes["annotations"] = _end_labels(ends)
        axes["margin"] = {"r": 14 + 7 * longest}
    noun = f"{kind.noun[0].upper()}{kind.noun[1:]}"
    title = f"{noun} under {attack_title(name)}" if name else f"Certified {kind.noun}"
    note = "Dotted: certified, which no attack can beat." if certified else ""
    return Figure(
        title,
        f"Line plot of size of the perturbation against {kind.noun}. {title}: {'; '.join(told)}.",
        data,
        axes,
        note,
    )


def _curve(group: Group, points: Iterable[tuple[float, Column]], kind: Kind) -> tuple[list[float], list[float]] | None:
    found = [(x, kind.scale * measured.mean) for x, column in points if (measured := cell(column, group.runs))]
    return ([x for x, _ in found], [y for _, y in found]) if found else None


def _spreads(group: Group, points: Iterable[tuple[float, Column]], kind: Kind) -> list[float]:
    cells = [cell(column, group.runs) for _, column in sorted(points, key=lambda point: point[0])]
    return [kind.scale * (found.spread or 0) for found in cells if found]


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


def plane(rows: Sequence[Group], attack: Column, test: Column, kind: Kind) -> Figure | None:
    """The test figure against that under attack, a point for each run."""
    data: list[Plotly] = []
    told = []
    percents = "" if kind.errors else " %"
    for group in rows:
        both = [(attack.of(run), test.of(run)) for run in group.runs]
        pairs = [(kind.scale * x, kind.scale * y) for x, y in both if x is not None and y is not None]
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
                "hovertemplate": f"%{{x:.4g}}{percents} attacked, %{{y:.4g}}{percents} left alone",
            }
        )
        means = [f"{figure(sum(values) / len(values))}{percents}" for values in (x, y)]
        told.append(f"{group.name} at {means[0]} attacked and {means[1]} left alone")
    if not data:
        return None
    axes = layout(f"{kind.noun} under {attack.title}, {attack.unit}{percents and ' (%)'}", kind.axis("test"))
    if not kind.errors:
        axes["xaxis"]["range"], axes["yaxis"]["range"] = (_frame(trace[axis] for trace in data) for axis in ("x", "y"))
    note = f"{'Down and to the left' if kind.errors else 'Up and to the right'} is better. A point is a run."
    title = f"{'Error' if kind.errors else 'Accuracy'} against robustness"
    return Figure(title, f"Scatter plot: {'; '.join(told)}.", data, axes, note)


def _frame(series: Iterable[Sequence[float]]) -> list[float]:
    """A range around all values with air, at least 4 points wide, within 0 and 100 and a little beyond."""
    flat = [value for values in series for value in values]
    air = max(2.0, 0.12 * (max(flat) - min(flat)))
    return [max(-3.0, min(flat) - air), min(103.0, max(flat) + air)]
