"""The table of figures: a row for each configuration, mean ± standard deviation over its seeds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cheaplip.report.attacks import Attack, read_attack, read_radius
from cheaplip.report.methods import BASELINE, OURS
from cheaplip.report.study import Run, Study, number, section
from cheaplip.runs.numbers import radius, three_digits
from cheaplip.runs.words import constant_in_words, part_of_data

__all__ = ["BALANCED", "COST", "LOWER", "UPPER", "Cell", "Column", "Group", "Table", "cell", "columns", "groups"]

BALANCED = "balanced_accuracy"
"""The section of a row with the balanced accuracy, of data with rare classes."""

LOWER, UPPER = ("lipschitz", "lower"), ("lipschitz", "upper")
"""Where the largest quotient found and the upper bound of the Lipschitz constant lie in a row."""

COST = ("seconds_relative",)
"""Where the time of an epoch lies in a row, in units of that of plain training."""

_ROBUST, _CERTIFIED = "robust", "certified"  # sections of a row: figures under attack, and those that are proved


@dataclass(frozen=True)
class Column:
    """A column: where its figure lies in a row, and how it is written.

    Attributes:
        path: keys into a row.
        title, unit: the two lines of its heading.
        write: from a figure to text.
        better: +1 where larger is better, -1 where smaller is, 0 where neither is.
    """

    path: tuple[str, ...]
    title: str
    unit: str
    write: Callable[[float], str]
    better: int = 0

    @property
    def attack(self) -> Attack | None:
        """The attack that its figures were measured under, if any."""
        return read_attack(self.path[1]) if self.path[0] == _ROBUST else None

    @property
    def certified_radius(self) -> float | None:
        """The L2 radius within which its figures are proved, if they are."""
        return read_radius(self.path[1]) if self.path[0] == _CERTIFIED else None

    def of(self, run: Run) -> float | None:
        """The run's figure; None where it is missing or not a finite number."""
        value = run.row
        for key in self.path[:-1]:
            value = section(value, key)
        return number(value.get(self.path[-1]))

    def published(self, group: "Group") -> float | None:
        """The paper's figure that the rows of a group carry beside ours; None where there is none."""
        return number(section(group.runs[0].row, "paper").get(self.path[-1]))


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one seed) over ``count`` of ``total`` seeds."""

    mean: float
    spread: float | None
    count: int
    total: int


@dataclass(frozen=True)
class Group:
    """The runs of one configuration, and how every plot draws them.

    Attributes:
        name: of the configuration.
        runs: one for each seed.
        color: name of a CSS variable of the page.
        symbol: of its points, as plotly.js names it.
        dash: of its lines, as plotly.js names it.
    """

    name: str
    runs: tuple[Run, ...]
    color: str
    symbol: str
    dash: str

    @property
    def method(self) -> str:
        """Its training method; ``""`` where unknown."""
        return self.runs[0].method

    @property
    def target(self) -> float | None:
        """The accuracy or error that its λ was steered to; None where nothing was steered."""
        return self.runs[0].target

    @property
    def balanced(self) -> bool:
        """Whether its target is one for the balanced accuracy."""
        return self.runs[0].balanced

    @property
    def constant(self) -> bool:
        """Whether one of its networks gives one answer for all inputs."""
        return any(constant_in_words(run.row) for run in self.runs)

    @property
    def target_on(self) -> str:
        """The part of the data on which the target had to be met: ``train`` or ``validation``."""
        return self.runs[0].target_on


@dataclass(frozen=True)
class Table:
    """A table that the reader can sort.

    Attributes:
        name: its anchor in the page.
        title, lead: the heading above it, and a sentence below the heading.
        rows: for each configuration and column a cell, and the published figure (``""``: none).
        best: the best mean of each column; None where no direction is better, or there is nothing to compare.
    """

    name: str
    title: str
    lead: str
    rows: tuple[tuple[Group, tuple[tuple[Cell | None, str], ...]], ...]
    best: tuple[float | None, ...]

    @classmethod
    def of(cls, name: str, title: str, rows: Sequence[Group], shown: Sequence[Column], *, lead: str = "") -> "Table":
        """Make the table of some configurations and columns."""
        cells = tuple((row, tuple((cell(c, row.runs), _published(c, row)) for c in shown)) for row in rows)
        return cls(name, title, lead, cells, tuple(_best(column, rows) for column in shown))


_LOOKS = {BASELINE: ("--s0", "circle"), OURS: ("--s1", "square")}  # of the first group of each method
_COLORS = ("--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s1")
_SYMBOLS = ("diamond", "triangle-up", "x", "cross", "star", "circle", "square")
_DASHES = ("solid", "dash", "dot", "dashdot")


def groups(study: Study) -> list[Group]:
    """Group the runs by configuration, in order of first appearance.

    Plain training is grey and CLIP is blue on every page.
    """
    found: list[Group] = []
    taken = 0
    for name in dict.fromkeys(run.name for run in study.runs):
        runs = tuple(run for run in study.runs if run.name == name)
        method = runs[0].method
        if method in _LOOKS and all(group.method != method for group in found):
            found.append(Group(name, runs, *_LOOKS[method], "solid"))
            continue
        lap, place = divmod(taken, len(_COLORS))
        symbol = _SYMBOLS[(place + lap) % len(_SYMBOLS)]
        found.append(Group(name, runs, _COLORS[place], symbol, _DASHES[lap % len(_DASHES)]))
        taken += 1
    return found


def columns(study: Study) -> list[Column]:
    """List the columns that at least one run has a figure for. The first is always the main figure on test data."""
    rows = [run.row for run in study.runs]
    attacks = {key: attack for row in rows for key in section(row, _ROBUST) if (attack := read_attack(key))}
    strongest_first = sorted(attacks.items(), key=lambda item: (item[1].rank, item[1]))
    radii = {key: size for row in rows for key in section(row, _CERTIFIED) if (size := read_radius(key)) is not None}
    certified = sorted(radii.items(), key=lambda item: item[1])
    words = study.words
    write, better = words.short, words.better
    main, *others = words.figures
    parts = dict.fromkeys(["train", *(run.target_on for run in study.runs)])
    shown = [
        *(Column((main, part), part_of_data(part), words.heading(main), write, better) for part in parts),
        *(Column((key, "test"), "test", words.heading(key), write, better) for key in others),
        Column((BALANCED, "test"), "test", "balanced accuracy", write, better),
        Column(("auc", "test"), "test", "AUC", three_digits, 1),
        Column(("sensitivity_at_95_specificity", "test"), "sensitivity", "at 95 % specificity", write, better),
        *(Column((_ROBUST, key), attack.title, attack.size_text, write, better) for key, attack in strongest_first),
        *(Column((_CERTIFIED, key), "certified", f"ε = {radius(size)}", write, better) for key, size in certified),
        Column(LOWER, "quotient", "largest found", three_digits, -1),
        Column(UPPER, "Lipschitz", "upper bound", three_digits, -1),
        Column(("lam",), "λ or μ", "at the end", three_digits),
        Column(("tracking",), "tracking", "pairs ÷ search", three_digits),
        Column(("seconds_per_epoch",), "time", "s per epoch", three_digits, -1),
        Column(COST, "cost", "times plain", three_digits, -1),
        Column(("peak_memory",), "memory", "MiB at most", _mebibytes, -1),
    ]
    test = Column((main, "test"), "test", words.heading(main), write, better)
    return [test, *(column for column in shown if any(column.of(run) is not None for run in study.runs))]


def cell(column: Column, runs: Sequence[Run]) -> Cell | None:
    """Summarise a figure over the runs that have one; None where none has."""
    values = [value for run in runs if (value := column.of(run)) is not None]
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), spread, len(values), len(runs))


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:.0f}"


def _published(column: Column, group: Group) -> str:
    value = column.published(group)
    return "" if value is None else column.write(value)


def _best(column: Column, rows: Sequence[Group]) -> float | None:
    means = [found.mean for group in rows if not group.constant and (found := cell(column, group.runs))]
    if not column.better or len(set(means)) < 2:
        return None
    return max(means) if column.better > 0 else min(means)
