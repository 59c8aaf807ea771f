"""How a run and a frontier show themselves in a notebook: HTML tables, and plots on axes of matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

from cheaplip.lipschitz.display import axes_or_new, html_table
from cheaplip.runs.words import Words, constant_in_words, words_of

__all__ = ["frontier_table", "plot_frontier", "plot_history", "run_table"]


def run_table(name: str, metrics: Mapping[str, Any]) -> str:
    """Write the metrics of a run as an HTML table."""
    words = words_of([metrics])
    rows = [
        (f"{title}, {part}", words.exact(value))
        for figure, title in words.figures.items()
        for part, value in (metrics.get(figure) or {}).items()
    ]
    rows += [(f"{words.noun}, {key}", words.exact(value)) for key, value in (metrics.get("robust") or {}).items()]
    rows += [
        (f"{words.certified} at ε = {key}", words.exact(value))
        for key, value in (metrics.get("certified") or {}).items()
    ]
    ends = metrics.get("lipschitz") or {}
    rows += [(f"Lip(f), {end} end", f"{ends[end]:.4g}") for end in ("lower", "upper") if ends.get(end) is not None]
    if said := constant_in_words(metrics):
        rows.append(("constant", said))
    return html_table(name, rows)


def plot_history(history: Sequence[Mapping[str, Any]], ax: Any = None) -> Any:
    """Draw the main figure on training and validation data over the epochs; return the axes."""
    ax = axes_or_new(ax)
    errors = any("validation_rmse" in line for line in history)
    words = words_of([{"rmse": {}}] if errors else [])
    for part in ("train", "validation"):
        known = [(line["epoch"], line[f"{part}_{words.key}"]) for line in history if f"{part}_{words.key}" in line]
        ax.plot([epoch for epoch, _ in known], [words.scale * value for _, value in known], label=part)
    ax.set_xlabel("epoch")
    ax.set_ylabel(words.noun + (" (%)" if words.percent_sign else ""))
    ax.legend()
    return ax


def frontier_table(rows: Sequence[Mapping[str, Any]], knee: str | None) -> str:
    """Write the rows of a frontier as an HTML table."""
    words = words_of(rows)
    attacks = list(dict.fromkeys(key for row in rows for key in row["robust"]))
    cells = [
        (
            row["name"] + (" (the knee)" if row["name"] == knee else ""),
            words.short(row[words.key]["test"]),
            *(words.short(row["robust"][key]) if key in row["robust"] else "–" for key in attacks),
            f"{row['lipschitz']['lower']:.3g}",
        )
        for row in rows
    ]
    return html_table("What stability costs", cells, ("network", f"test {words.noun}", *attacks, "largest quotient"))


def plot_frontier(rows: Sequence[Mapping[str, Any]], attack: str, knee: str | None, ax: Any = None) -> Any:
    """Draw the test figure against that under an attack, a curve for each method; return the axes."""
    ax, words = axes_or_new(ax), words_of(rows)
    for method in dict.fromkeys(row["method"] for row in rows):
        curve = sorted(
            (row for row in rows if row["method"] == method),
            key=lambda row: row.get("give_up") or row.get("margin") or 0.0,
        )
        x, y = zip(*(_at(row, attack, words) for row in curve), strict=True)
        ax.plot(x, y, marker="o", label=method)
    for row in rows:
        if row["name"] == knee:
            ax.annotate("knee", _at(row, attack, words), xytext=(8, 8), textcoords="offset points")
    percent = " (%)" if words.percent_sign else ""
    ax.set_xlabel(f"{words.noun} under {attack}{percent}")
    ax.set_ylabel(f"test {words.noun}{percent}")
    ax.legend()
    return ax


def _at(row: Mapping[str, Any], attack: str, words: Words) -> tuple[float, float]:
    return words.scale * row["robust"][attack], words.scale * row[words.key]["test"]
