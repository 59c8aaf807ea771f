"""The plots of a frontier: accuracy, or error, against robustness and against the largest quotient found."""

from collections.abc import Sequence

from cheaplip.report.plots.figure import Figure, Plotly, layout, plain
from cheaplip.report.study import number
from cheaplip.report.table import LOWER, Column, Group, cell
from cheaplip.runs.numbers import three_digits
from cheaplip.runs.words import Words

__all__ = ["frontier_curves"]

_NEAR = 0.03  # points closer than this part of the plot, in both directions, share a label


def frontier_curves(
    rows: Sequence[Group], columns: Sequence[Column], attack: Column | None, test: Column, words: Words
) -> list[Figure]:
    """Plot the curve of each method over what is given up, or over its margin, beside the other networks.

    Args:
        rows: the configurations.
        columns: of the table.
        attack: the column of the robustness; None: nothing was attacked.
        test: the column without perturbation.
        words: of the task.

    Returns:
        No plots where no configuration says what it gives up, or its margin.
    """
    if all(_place(group) is None for group in rows):
        return []
    plots = []
    if attack is not None and attack.attack is not None:
        axis = f"{words.noun} under {attack.attack.title}, {attack.unit}{words.percent_sign and ' (%)'}"
        plots.append(_plot("What stability costs", axis, attack, words.scale, rows, test, words))
    lower = next((column for column in columns if column.path == LOWER), None)
    if lower is not None:
        found = _plot("What a small constant costs", "largest quotient found", lower, 1.0, rows, test, words)
        found.layout["xaxis"] |= {"type": "log"}
        plots.append(found)
    return plots


def _plot(
    title: str, axis: str, across: Column, scale: float, rows: Sequence[Group], test: Column, words: Words
) -> Figure:
    curves: dict[str, list[Group]] = {}
    for group in rows:
        curves.setdefault(group.method, []).append(group)
    data: list[Plotly] = []
    phrases = []
    for curve in curves.values():
        known = [
            (group, across_cell, test_cell)
            for group in sorted(curve, key=lambda group: _place(group) or 0.0)
            if (across_cell := cell(across, group.runs)) and (test_cell := cell(test, group.runs))
        ]
        if not known:
            continue
        look = known[0][0]
        x, y = [scale * one.mean for _, one, _ in known], [words.scale * other.mean for _, _, other in known]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text" if len(known) > 1 else "markers+text",
                "name": plain(look.method),
                "x": x,
                "y": y,
                "text": [plain(_label(group)) for group, _, _ in known],
                "customdata": [plain(_label(group)) for group, _, _ in known],
                "textfont": {"color": look.color, "size": 11},
                "cliponaxis": False,
                "line": {"color": look.color, "width": 2, "dash": look.dash},
                "marker": {
                    "color": look.color,
                    "symbol": look.symbol,
                    "size": [16 if _is_knee(group) else 9 for group, _, _ in known],
                },
                "hovertemplate": "%{customdata}: %{x:.4g}, %{y:.4g}",
            }
        )
        phrases += [
            f"{group.name} at {three_digits(a)}, {three_digits(b)}"
            for (group, _, _), a, b in zip(known, x, y, strict=True)
        ]
    places = [place for drawn in data for place in drawn["x"]]
    for drawn in data:  # a label points to the middle, so that none is cut off at the edge
        drawn["textposition"] = [
            "top left" if 2 * place > min(places) + max(places) else "top right" for place in drawn["x"]
        ]
    _join_labels(data)
    axes = layout(axis, words.axis("test"))
    if any(_margin(group) is not None for group in rows):
        note = "Each point is trained with the margin m that it says."
    else:
        note = "Each point gives up as much as it says of the plain network’s figure on validation data."
    if any(_is_knee(group) for group in rows):
        note += " The large point is the knee of the curve: further on, the same gain costs more."
    return Figure(title, f"Curves of {words.noun} against {axis}: {'; '.join(phrases)}.", data, axes, note)


def _join_labels(data: list[Plotly]) -> None:
    """Write the labels of points that lie almost on each other in one line, at the first of them."""
    spread = [max(values) - min(values) for values in ([v for d in data for v in d[axis]] for axis in ("x", "y"))]
    placed: list[tuple[Plotly, int]] = []
    for drawn in data:
        for i in range(len(drawn["x"])):
            for other, j in placed:
                apart = [abs(drawn[axis][i] - other[axis][j]) for axis in ("x", "y")]
                if all(gap <= _NEAR * size for gap, size in zip(apart, spread, strict=True)):
                    other["text"][j] += f", {drawn['text'][i]}"
                    drawn["text"][i] = ""
                    break
            else:
                placed.append((drawn, i))


def _is_knee(group: Group) -> bool:
    return any(run.row.get("knee") is True for run in group.runs)


def _given_up(group: Group) -> float | None:
    return number(group.runs[0].row.get("give_up"))


def _margin(group: Group) -> float | None:
    return number(group.runs[0].row.get("margin"))


def _place(group: Group) -> float | None:
    """The place of a network on its curve; None where it is not part of a frontier."""
    amount = _given_up(group)
    return _margin(group) if amount is None else amount


def _label(group: Group) -> str:
    amount, margin = _given_up(group), _margin(group)
    text = group.name if amount is None else f"{100 * amount:g}\u202f%"
    text = text if margin is None else f"m = {margin:g}"
    return f"{text}, the knee" if _is_knee(group) else text
