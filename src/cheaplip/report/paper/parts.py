"""What the page of an experiment is made of: a headline, and parts with plots, pictures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from cheaplip.report.plots.figure import Figure, Plotly
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.study import Run, number, section
from cheaplip.report.table import Group
from cheaplip.runs.numbers import three_digits

__all__ = ["Entry", "Grid", "Page", "Part", "Picture", "entry", "largest_quotient", "look", "missing", "trace"]


@dataclass(frozen=True)
class Entry:
    """A cell of a table: its text, and the value that it is sorted by."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Grid:
    """A table that the reader can sort.

    Attributes:
        heads: the headings of its columns, two lines each.
        rows: a title and the entries for each row.
    """

    heads: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]


@dataclass(frozen=True)
class Picture:
    """A few images side by side.

    Attributes:
        title: the heading above them.
        images: caption, alternative text and data URI of each.
        note: a sentence below them.
        missing: why they are not shown; ``""`` where they are.
    """

    title: str
    images: tuple[tuple[str, str, str], ...]
    note: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        name: its anchor.
        title, lead: the heading, and a sentence below it.
        legend: of the plots.
        plots, pictures, grid: what it shows.
        gap: why something is not shown; ``""`` where everything is.
    """

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
    """The whole page of an experiment."""

    headline: Headline
    parts: tuple[Part, ...]


def entry(value: float | None) -> Entry:
    """Make the cell of a number; a dash where there is none."""
    return Entry("–") if value is None else Entry(three_digits(value), value)


def largest_quotient(run: Run) -> float | None:
    """Read the largest quotient found; None where the row has none."""
    return number(section(run.row, "lipschitz").get("lower"))


def look(name: str, color: str, *, dash: str = "solid", symbol: str = "none") -> Group:
    """Make a line of a legend.

    Args:
        name: what it says.
        color: name of a CSS variable of the page.
        dash: of the line; ``none``: no line is drawn.
        symbol: of the points; ``none``: no points are drawn.
    """
    return Group(name, (), color, symbol, dash)


def trace(of: Group, x: Sequence[float], y: Sequence[float | None]) -> Plotly:
    """Draw a line, or points, as their legend shows them; None in ``y`` is a gap."""
    drawn: Plotly = {"type": "scatter", "name": of.name, "x": list(x), "y": list(y)}
    drawn["hovertemplate"] = "%{x:.4g}, %{y:.4g}"
    if of.dash != "none":
        drawn["line"] = {"color": of.color, "width": 2, "dash": of.dash}
    if of.symbol != "none":
        drawn["marker"] = {"color": of.color, "symbol": of.symbol, "size": 8 if of.dash != "none" else 4}
    drawn["mode"] = "+".join((["lines"] if of.dash != "none" else []) + (["markers"] if of.symbol != "none" else []))
    return drawn


def missing(names: Sequence[str], what: str) -> str:
    """Say why some rows are not shown; ``""`` where there are no such rows."""
    if not names:
        return ""
    return (
        f"These rows have no {what}: {', '.join(names)}. They were made by an older version, or a value is not a "
        "finite number."
    )
