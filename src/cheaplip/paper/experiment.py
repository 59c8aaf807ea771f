"""What an experiment is: units of work that run by themselves, and a table of the rows they leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.runs.folder import RunFolder

__all__ = ["Experiment", "Job", "Row", "Unit"]

Row = dict[str, Any]
"""A row of ``results.json``: one trained model, or one check."""


@dataclass(frozen=True)
class Job:
    """What a unit is given when it runs.

    Attributes:
        folder: the unit's own; it continues from what an interrupted run left there.
        quick: whether to run the small version.
        progress: called with the fraction done, in [0, 1], and a note.
        stop: called often; once it returns True, the unit saves its state and raises
            :class:`~cheaplip.errors.Interrupted`.
    """

    folder: RunFolder
    quick: bool
    progress: Callable[[float, str], None] = lambda _fraction, _note: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Unit:
    """A part of an experiment that runs by itself, if need be in a process of its own.

    Attributes:
        name: of its folder.
        cost: how long it takes, relative to other units; used to estimate the time left.
        run: does the work and returns the rows; it can be pickled.
    """

    name: str
    cost: float
    run: Callable[[Job], list[Row]]


@dataclass(frozen=True)
class Experiment:
    """One figure or table of the paper.

    Attributes:
        name: of its folder and on the command line.
        units: lists the units in the order of the table; its argument says whether to use the small version.
        table: writes rows as Markdown; there may be fewer rows than the whole experiment has.
        picture: draws the rows into a file; None where the table is enough.
    """

    name: str
    units: Callable[[bool], list[Unit]]
    table: Callable[[Sequence[Row]], str]
    picture: Callable[[Sequence[Row], str], None] | None = None
