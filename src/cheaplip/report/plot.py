"""A plot as plain data for plotly.js; colours are names of the page's CSS variables, which know day and night."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.report.table import Group

__all__ = ["Figure", "Plotly", "layout", "line", "plain"]

Plotly = dict[str, Any]
"""A part of a figure, as plotly.js wants it."""


@dataclass(frozen=True)
class Figure:
    """A plot: its title, what it shows in words for those who cannot see it, and plotly's data and layout.

    ``height`` is in pixels; unset, the page's own.
    """

    title: str
    alt: str
    data: list[Plotly]
    layout: Plotly
    note: str = ""
    height: int | None = None

    def json(self) -> Plotly:
        """What the page's script draws."""
        return {"data": self.data, "layout": self.layout}


def line(
    group: Group,
    x: Sequence[float],
    y: Sequence[float | None],
    *,
    error: Sequence[float] = (),
    markers: bool = True,
) -> Plotly:
    """A line in its group's look, with error bars where there are any; None in ``y`` is a gap."""
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


def layout(x: str, y: str) -> Plotly:
    """Axes with these titles."""
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "showlegend": False,
        "hovermode": "closest",
    }


def plain(text: str) -> str:
    """Text as plotly.js should show it: it reads tags otherwise."""
    return html.escape(text, quote=False)
