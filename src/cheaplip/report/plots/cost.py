"""The plot of what each method costs: accuracy, or error, under attack against the time of an epoch."""

from collections.abc import Sequence

from cheaplip.report.plots.figure import Figure, Plotly, layout, plain
from cheaplip.report.table import COST, Column, Group, cell
from cheaplip.runs.numbers import three_digits
from cheaplip.runs.words import Words, capitalised

__all__ = ["cost"]


def cost(rows: Sequence[Group], columns: Sequence[Column], attack: Column, test: Column, words: Words) -> Figure | None:
    """Plot each method by its cost and its figure under an attack, labelled with the figure without one.

    Args:
        rows: the configurations.
        columns: of the table.
        attack: the column of the attack.
        test: the column without perturbation.
        words: of the task.

    Returns:
        None where no row says what it costs relative to plain training.
    """
    across = next((column for column in columns if column.path == COST), None)
    if across is None:
        return None
    data: list[Plotly] = []
    phrases = []
    for group in rows:
        price, attacked, clean = (cell(column, group.runs) for column in (across, attack, test))
        if price is None or attacked is None or clean is None:
            continue
        figures = [f"{three_digits(words.scale * one.mean)}{words.percent_sign}" for one in (clean, attacked)]
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": plain(group.name),
                "x": [price.mean],
                "y": [words.scale * attacked.mean],
                "text": [plain(f"{group.name}, {figures[0]}")],
                "textposition": "top center",
                "textfont": {"color": group.color, "size": 11},
                "cliponaxis": False,
                "marker": {"color": group.color, "symbol": group.symbol, "size": 11},
                "hovertemplate": "%{text}: %{y:.4g} attacked, %{x:.3g} times plain",
            }
        )
        phrases.append(f"{group.name} costs {three_digits(price.mean)}, {figures[1]} attacked, {figures[0]} unchanged")
    if not data:
        return None
    axes = layout(
        "time of an epoch, plain training = 1",
        f"{words.noun} under {attack.title}, {attack.unit}{words.percent_sign and ' (%)'}",
    )
    axes["xaxis"] |= {"type": "log"}
    side = "down" if words.errors else "up"
    note = (
        f"Further left is cheaper, further {side} is more robust. Each label has the {words.noun} on test data without "
        "perturbation: compare methods where it is about the same."
    )
    title = f"{capitalised(words.noun)} under attack, and its cost"
    return Figure(
        title, f"Scatter plot of cost against {words.noun} under attack: {'; '.join(phrases)}.", data, axes, note
    )
