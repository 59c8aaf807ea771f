"""A plot as plain data for plotly.js.

Colours are names of CSS variables of the page, which have a value for light and one for dark screens.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.report.table import Group

__all__ = ["Figure", "Plotly", "layout", "line", "plain"]

Plotly = dict[str, Any]
"""A part of a figure, as plotly.js expects it."""


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        title: the heading above it.
        alt: what it shows, in words, for those who cannot see it.
        data, layout: of plotly.js.
        note: a sentence below it.
        height: in pixels; None: the page's own.
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
    """Draw a line in its group's colour, symbol and dash.

    Args:
        group: of runs.
        x, y: of its points; None in ``y`` is a gap.
        error: half the height of each point's error bar; empty: none are drawn.
        markers: whether points are marked.
    """
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
    """Make axes with these titles."""
    return {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "showlegend": False,
        "hovermode": "closest",
    }


def plain(text: str) -> str:
    """Escape text for plotly.js, which would read tags in it otherwise."""
    return html.escape(text, quote=False)
