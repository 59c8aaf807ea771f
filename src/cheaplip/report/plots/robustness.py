"""The plots of accuracy, or error, under perturbations: against their size, and against the figure without them."""

from collections.abc import Iterable, Sequence

from cheaplip.report.attacks import Attack
from cheaplip.report.plots.figure import Figure, Plotly, layout, line, plain
from cheaplip.report.table import Column, Group, cell
from cheaplip.runs.numbers import three_digits
from cheaplip.runs.words import Words, capitalised

__all__ = ["perturbation_curves", "trade_off"]

_LABELLED = 6  # more lines than that have no labels at their ends
_LONGEST = 26  # characters of such a label; longer ones would leave the plot no room
_GAP = 6.5  # points between two such labels

_Points = Sequence[tuple[float, Column]]  # sizes of a perturbation, each with its column of figures


def perturbation_curves(rows: Sequence[Group], columns: Sequence[Column], test: Column, words: Words) -> list[Figure]:
    """Plot accuracy, or error, against perturbation size: a plot for each attack, strongest first, then noise.

    The certified curves join the plot of the strongest attack, or get one of their own where nothing was attacked.

    Args:
        rows: the configurations.
        columns: of the table.
        test: the column without perturbation.
        words: of the task.
    """
    measured: dict[str, list[tuple[Attack, Column]]] = {}
    for column in columns:
        if attack := column.attack:
            measured.setdefault(attack.name, []).append((attack, column))
    certified = [(radius, column) for column in columns if (radius := column.certified_radius) is not None]
    by_attack = sorted(measured.values(), key=lambda found: found[0][0].rank)
    euclidean = (found for found in by_attack if not found[0][0].is_corruption and found[0][0].norm == "L2")
    beside = next(euclidean, None)  # certified radii are Euclidean
    plots = [
        _plot(
            found[0][0],
            rows,
            [(0.0, test), *((attack.size, column) for attack, column in found)],
            certified if found is beside else [],
            words,
        )
        for found in by_attack
    ]
    return [_plot(None, rows, [], certified, words), *plots] if certified and beside is None else plots


def _plot(attack: Attack | None, rows: Sequence[Group], points: _Points, certified: _Points, words: Words) -> Figure:
    """The plot of one attack, or of the certified curves alone where ``attack`` is None."""
    data: list[Plotly] = []
    ends: list[tuple[Group, float]] = []
    phrases: list[str] = []
    for group in rows:
        if curve := _curve(group, sorted(points, key=lambda point: point[0]), words):
            data.append(line(group, *curve, error=_spreads(group, points, words)))
            ends.append((group, curve[1][-1]))
            phrases.append(f"{group.name} {_from_to(curve[1], words)}")
        if proved := _curve(group, certified, words):
            data.append({**line(group, *proved), "name": f"{plain(group.name)}, certified"})
            data[-1]["line"] |= {"dash": "dot", "width": 3}
            data[-1]["marker"] |= {"symbol": f"{group.symbol}-open"}
            phrases.append(f"{group.name} certified {_from_to(proved[1], words)}")
    size = "ε, L2 (units of the input)" if attack is None else attack.axis
    size = size.replace("units of the input", rows[0].runs[0].unit)
    furthest = max((point for point, _ in (*points, *certified)), default=1.0) or 1.0
    axes = layout(size, words.axis("test"))
    axes["xaxis"] |= {
        "range": [-0.03 * furthest, 1.03 * furthest],
        "tickvals": sorted({x for x, _ in points or certified}),
    }
    axes["yaxis"] |= {"rangemode": "tozero"} if words.errors else {"range": [-3, 103], "dtick": 25}
    longest = max((len(_end_text(group, value)) for group, value in ends), default=0)
    if len(ends) <= _LABELLED and longest <= _LONGEST and not words.errors:
        axes["annotations"] = _end_labels(ends)
        axes["margin"] = {"r": 14 + 7 * longest}
    title = f"{capitalised(words.noun)} under {attack.title}" if attack else f"Certified {words.noun}"
    beyond = "above" if words.errors else "below"
    note = f"Dotted: certified. It is proved that no perturbation of that size leads {beyond} it." if certified else ""
    return Figure(
        title,
        f"Line plot of size of the perturbation against {words.noun}. {title}: {'; '.join(phrases)}.",
        data,
        axes,
        note,
    )


def _curve(group: Group, points: _Points, words: Words) -> tuple[list[float], list[float]] | None:
    found = [(x, words.scale * measured.mean) for x, column in points if (measured := cell(column, group.runs))]
    return ([x for x, _ in found], [y for _, y in found]) if found else None


def _spreads(group: Group, points: _Points, words: Words) -> list[float]:
    cells = [cell(column, group.runs) for _, column in sorted(points, key=lambda point: point[0])]
    return [words.scale * (found.spread or 0) for found in cells if found]


def _from_to(values: Sequence[float], words: Words) -> str:
    first, last = (f"{three_digits(value)}{words.percent_sign}" for value in (values[0], values[-1]))
    return f"from {first} to {last}"


def _end_text(group: Group, value: float) -> str:
    return f"{group.name} {value:.0f}\u202f%"


def _end_labels(ends: Sequence[tuple[Group, float]]) -> list[Plotly]:
    """Labels at the ends of the lines, moved apart where they would overlap."""
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


def trade_off(rows: Sequence[Group], attack: Column, test: Column, words: Words) -> Figure | None:
    """Plot the test figure against that under an attack, a point for each run; None where no run has both."""
    data: list[Plotly] = []
    phrases = []
    percents = words.percent_sign
    for group in rows:
        both = [(attack.of(run), test.of(run)) for run in group.runs]
        pairs = [(words.scale * x, words.scale * y) for x, y in both if x is not None and y is not None]
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
                "hovertemplate": f"%{{x:.4g}}{percents} attacked, %{{y:.4g}}{percents} unchanged",
            }
        )
        means = [f"{three_digits(sum(values) / len(values))}{percents}" for values in (x, y)]
        phrases.append(f"{group.name} at {means[0]} attacked and {means[1]} unchanged")
    if not data:
        return None
    axes = layout(f"{words.noun} under {attack.title}, {attack.unit}{percents and ' (%)'}", words.axis("test"))
    if not words.errors:
        axes["xaxis"]["range"], axes["yaxis"]["range"] = (_frame(trace[axis] for trace in data) for axis in ("x", "y"))
    note = f"{'Down and to the left' if words.errors else 'Up and to the right'} is better. Each point is one run."
    title = f"{'Error' if words.errors else 'Accuracy'} against robustness"
    return Figure(title, f"Scatter plot: {'; '.join(phrases)}.", data, axes, note)


def _frame(series: Iterable[Sequence[float]]) -> list[float]:
    """The range of an axis in percent: all values with a margin, at least 4 points wide, from about 0 to about 100."""
    flat = [value for values in series for value in values]
    air = max(2.0, 0.12 * (max(flat) - min(flat)))
    return [max(-3.0, min(flat) - air), min(103.0, max(flat) + air)]
