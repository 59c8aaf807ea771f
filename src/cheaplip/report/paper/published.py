"""The plot of a table's rows beside the published figures."""

from collections.abc import Sequence

from cheaplip.report.paper.tables import column_of, short_name
from cheaplip.report.plots.figure import Figure, Plotly, layout, plain
from cheaplip.report.table import Column, Group, cell
from cheaplip.runs.numbers import percent

__all__ = ["beside_published"]

_LINE = 26  # pixels for each row of the plot
_HOVER = "%{y}: %{x:.1f} %"


def beside_published(rows: Sequence[Group], columns: Sequence[Column]) -> Figure | None:
    """Plot each row's accuracy under the paper's attack, here and as published, and under a strong attack.

    Returns:
        The plot; None where no row was attacked by the paper's attack.
    """
    weak = column_of(columns, "pgd-sign")
    strong = column_of(columns, "autoattack") or column_of(columns, "pgd")
    if weak is None:
        return None
    data: list[Plotly] = []
    phrases: list[str] = []
    for group in rows:
        ours = [(column, symbol) for column, symbol in ((strong, "x"), (weak, "circle")) if column is not None]
        found = [(100 * c.mean, symbol) for column, symbol in ours if (c := cell(column, group.runs))]
        if not found:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(group.name),
                "x": [x for x, _ in found],
                "y": [plain(short_name(group))] * len(found),
                "line": {"color": group.color, "width": 2},
                "marker": {"color": group.color, "symbol": [symbol for _, symbol in found], "size": 10},
                "showlegend": False,
                "hovertemplate": _HOVER,
            }
        )
        paper = weak.published(group)
        if paper is not None:
            data.append(_point([100 * paper], [plain(short_name(group))], "circle-open", "published"))
        said = "" if paper is None else f", published {percent(paper)}"
        phrases.append(f"{group.name} {' to '.join(f'{x:.1f} %' for x, _ in found)}{said}")
    if not data:
        return None
    name = "" if strong is None or strong.attack is None else strong.attack.title
    legend = [("circle", f"{weak.title}, here"), ("circle-open", f"{weak.title}, published")]
    legend += [("x", f"{name}, here")] if strong is not None else []
    data += [{**_point([None], [plain(short_name(rows[0]))], *entry), "showlegend": True} for entry in legend]
    axes = layout("accuracy under attack (%)", "row of the table")
    axes["xaxis"] |= {"range": [-3, 103], "dtick": 25}
    axes["yaxis"] |= {"type": "category", "autorange": "reversed", "dtick": 1, "tickfont": {"size": 11}}
    axes["yaxis"]["categoryarray"] = [plain(short_name(group)) for group in rows]
    axes |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0}}
    alt = f"Dot plot of accuracy under {name or weak.title} and {weak.title}: {'; '.join(phrases)}."
    title = f"Under attack ({weak.unit}), here and as published"
    note = "Each line leads from the accuracy under the strong attack to that under the paper’s weaker one."
    return Figure(title, alt, data, axes, note, height=130 + _LINE * len(rows))


def _point(x: Sequence[float | None], y: Sequence[str], symbol: str, name: str) -> Plotly:
    marker = {"color": "--ink", "symbol": symbol, "size": 10}
    drawn: Plotly = {"type": "scatter", "mode": "markers", "name": plain(name), "x": list(x), "y": list(y)}
    return drawn | {"marker": marker, "showlegend": False, "hovertemplate": _HOVER}
