"""How results show themselves in a notebook: a small HTML table, and axes of matplotlib, which is an extra."""

import html
from collections.abc import Sequence
from typing import Any

__all__ = ["axes_or_new", "bracket_table", "html_table", "plot_bracket"]


def html_table(title: str, rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """Write a table as HTML.

    Args:
        title: its caption.
        rows: its cells; the first one of each row is a heading.
        heading: of the columns; empty: none.
    """
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "".join(
        f"<tr><th style='text-align:left'>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{top}</tr></thead>" if top else ""
    return f"<table><caption>{html.escape(title)}</caption>{head}<tbody>{body}</tbody></table>"


def axes_or_new(ax: Any = None) -> Any:
    """Return axes of matplotlib: those given, or new ones.

    Raises:
        ImportError: matplotlib is missing.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ImportError("plots need matplotlib: pip install 'cheaplip[plots]'") from error
    return pyplot.subplots()[1]


def bracket_table(
    lower: float, upper: float, gap: float, norm: float, method: str, reason: str, estimate: float | None = None
) -> str:
    """Write a bracket as an HTML table, with an estimate of the constant, if there is one, in a row of its own."""
    rows = [("lower", f"{lower:.6g}"), ("upper", f"{upper:.6g}"), ("gap", f"{gap:.4g}"), ("norm", f"{norm:g}")]
    rows += [("method", method), *([("reason", reason)] if reason else [])]
    rows += [] if estimate is None else [("estimate, no bound", f"{estimate:.6g}")]
    return html_table("lower ≤ Lip(f) ≤ upper", rows)


def plot_bracket(lower: float, upper: float, ax: Any = None) -> Any:
    """Draw a bracket as an interval, with an arrow where there is no upper end; return the axes."""
    ax = axes_or_new(ax)
    if upper < float("inf"):
        ax.plot([lower, upper], [0, 0], marker="|", markersize=16, linewidth=3)
        ax.annotate(f"{upper:.4g}", (upper, 0), xytext=(0, 12), textcoords="offset points", ha="center")
    else:
        ax.plot([lower], [0], marker="$→$", markersize=16)
    ax.annotate(f"{lower:.4g}", (lower, 0), xytext=(0, 12), textcoords="offset points", ha="center")
    ax.set_yticks([])
    ax.set_xlabel("Lip(f)")
    return ax
