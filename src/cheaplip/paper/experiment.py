"""An experiment: units that can run apart, each leaving rows, and the table they make together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.runs.folder import RunFolder

__all__ = ["Experiment", "Job", "Row", "Unit"]

Row = dict[str, Any]
"""A row of ``results.json``."""


@dataclass(frozen=True)
class Job:
    """What a unit gets to work with.

    Attributes:
        folder: its own; what lies there from an interrupted run is taken up.
        quick: the small version.
        progress: called with the fraction done, in [0, 1], and a note.
        stop: asked often; True means: save the state and raise :class:`~cheaplip.errors.Interrupted`.
    """

    folder: RunFolder
    quick: bool
    progress: Callable[[float, str], None] = lambda _fraction, _note: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Unit:
    """A part of an experiment that runs by itself, in a process of its own if wanted.

    Attributes:
        name: of its folder.
        cost: how long it takes beside other units, for the estimate of the time left.
        run: from a job to rows; can be pickled.
    """

    name: str
    cost: float
    run: Callable[[Job], list[Row]]


@dataclass(frozen=True)
class Experiment:
    """One figure or table of the paper.

    Attributes:
        name: of its folder and on the command line.
        units: in the order of the table, given whether the small version is wanted.
        table: all rows there are, as Markdown.
        picture: a drawing of the rows, given the file to write; None where a table says it all.
    """

    name: str
    units: Callable[[bool], list[Unit]]
    table: Callable[[Sequence[Row]], str]
    picture: Callable[[Sequence[Row], str], None] | None = None
