"""What a page of an experiment is made of: a headline, and parts with plots, pictures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from cheaplip.report.headline import Headline
from cheaplip.report.plot import Figure, Plotly
from cheaplip.report.table import Group

__all__ = ["Entry", "Grid", "Page", "Part", "Picture", "look", "missing", "trace"]


@dataclass(frozen=True)
class Entry:
    """A cell of a table: its text, and what it is sorted by."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Grid:
    """A table that sorts: heads of two lines, a title and entries for each row."""

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]


@dataclass(frozen=True)
class Picture:
    """A few images in a row, each with its caption, alternative text and data URI."""

    title: str
    images: tuple[tuple[str, str, str], ...]
    note: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Part:
    """A section; ``gap`` says why it holds less than it should."""

    name: str
    title: str
    lead: str = ""
    legend: tuple[Group, ...] = ()
    plots: tuple[Figure, ...] = ()
    pictures: tuple[Picture, ...] = ()
    grid: Grid | None = None
    gap: str = ""


@dataclass(frozen=True)
class Page:
    """All of an experiment's page."""

    headline: Headline
    parts: tuple[Part, ...]


def look(name: str, color: str, *, dash: str = "solid", symbol: str = "none") -> Group:
    """A line of a legend; the dash ``none`` leaves the symbol alone."""
    return Group(name, (), color, symbol, dash)


def trace(of: Group, x: Sequence[float], y: Sequence[float | None]) -> Plotly:
    """A line, or points, as their legend shows them."""
    drawn: Plotly = {"type": "scatter", "name": of.name, "x": list(x), "y": list(y)}
    drawn["hovertemplate"] = "%{x:.4g}, %{y:.4g}"
    if of.dash != "none":
        drawn["line"] = {"color": of.color, "width": 2, "dash": of.dash}
    if of.symbol != "none":
        drawn["marker"] = {"color": of.color, "symbol": of.symbol, "size": 8 if of.dash != "none" else 4}
    drawn["mode"] = "+".join((["lines"] if of.dash != "none" else []) + (["markers"] if of.symbol != "none" else []))
    return drawn


def missing(names: Sequence[str], what: str) -> str:
    """Why some rows are not shown; empty where none is missing."""
    if not names:
        return ""
    return f"No {what} in the rows of {', '.join(names)}: an older version made them, or a value is no finite number."
