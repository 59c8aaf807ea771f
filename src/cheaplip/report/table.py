"""The comparison table: a group of runs for each configuration, mean ± spread over seeds."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cheaplip.report.read import Run, Study, number, section
from cheaplip.report.wording import attack_key, attack_title, figure, is_noise, part, radius, strength

__all__ = ["Cell", "Column", "Group", "cell", "columns", "groups"]


@dataclass(frozen=True)
class Column:
    """A column: where its figure lies in a row, and how it reads.

    Attributes:
        path: keys into a row.
        title, unit: the two lines of its head.
        write: from a figure to text.
        better: +1 where more is better, -1 where less is, 0 where neither is.
    """

    path: tuple[str, ...]
    title: str
    unit: str
    write: Callable[[float], str]
    better: int = 0

    def of(self, run: Run) -> float | None:
        """The run's figure, None where it is missing or not a finite number."""
        value = run.row
        for key in self.path[:-1]:
            value = section(value, key)
        return number(value.get(self.path[-1]))


@dataclass(frozen=True)
class Cell:
    """Mean and sample standard deviation (None for one seed) over ``count`` of ``total`` seeds."""

    mean: float
    spread: float | None
    count: int
    total: int


@dataclass(frozen=True)
class Group:
    """The runs of a configuration, and the look that tells it from the others in every plot."""

    name: str
    runs: tuple[Run, ...]
    color: str
    symbol: str
    dash: str

    @property
    def method(self) -> str:
        """Its method, ``""`` where unknown."""
        return self.runs[0].method

    @property
    def target(self) -> float | None:
        """What its λ was steered to."""
        return self.runs[0].target

    @property
    def target_on(self) -> str:
        """The part of the data on which it was to be met: train or validation."""
        return self.runs[0].target_on


_KNOWN = {"plain": ("--s0", "circle"), "clip": ("--s1", "square")}  # the first of each method
_COLORS = ("--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s1")
_SYMBOLS = ("diamond", "triangle-up", "x", "cross", "star", "circle", "square")
_DASHES = ("solid", "dash", "dot", "dashdot")


def groups(study: Study) -> list[Group]:
    """Configurations in order of first appearance; plain training is grey, CLIP blue, on every page."""
    found: list[Group] = []
    taken = 0
    for name in dict.fromkeys(run.name for run in study.runs):
        runs = tuple(run for run in study.runs if run.name == name)
        method = runs[0].method
        if method in _KNOWN and all(group.method != method for group in found):
            found.append(Group(name, runs, *_KNOWN[method], "solid"))
            continue
        lap, place = divmod(taken, len(_COLORS))
        symbol = _SYMBOLS[(place + lap) % len(_SYMBOLS)]
        found.append(Group(name, runs, _COLORS[place], symbol, _DASHES[lap % len(_DASHES)]))
        taken += 1
    return found


def columns(study: Study) -> list[Column]:
    """The columns that at least one run has a figure for; test accuracy always."""
    rows = [run.row for run in study.runs]
    robust = {key: parsed for row in rows for key in section(row, "robust") if (parsed := attack_key(key))}
    ordered = sorted(robust, key=lambda key: (strength(robust[key][0]), robust[key]))
    radii = {key: value for row in rows for key in section(row, "certified") if (value := _radius(key)) is not None}
    certified = sorted(radii.items(), key=lambda item: item[1])
    kind = study.kind
    write, better = kind.write, kind.better
    test = Column((kind.section, "test"), "test", kind.head, write, better)
    aimed = dict.fromkeys(["train", *(run.target_on for run in study.runs)])
    others = [
        *(Column((kind.section, each), part(each), kind.head, write, better) for each in aimed),
        Column(("mae", "test"), "test", kind.head.replace(kind.noun, "MAE"), write, better),
        *(Column(("robust", key), attack_title(robust[key][0]), _size(*robust[key]), write, better) for key in ordered),
        *(Column(("certified", key), "certified", f"ε = {radius(value)}", write, better) for key, value in certified),
        Column(("lipschitz", "lower"), "quotient", "largest found", figure, -1),
        Column(("lipschitz", "upper"), "Lipschitz", "upper bound", figure, -1),
        Column(("lam",), "λ or μ", "at the end", figure),
        Column(("tracking",), "tracking", "pairs ÷ search", figure),
        Column(("seconds_per_epoch",), "time", "s per epoch", figure, -1),
    ]
    return [test, *(column for column in others if any(column.of(run) is not None for run in study.runs))]


def cell(column: Column, runs: Sequence[Run]) -> Cell | None:
    """The figure over the runs that have one; None where none has."""
    values = [value for run in runs if (value := column.of(run)) is not None]
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), spread, len(values), len(runs))


def _radius(key: str) -> float | None:
    try:
        value = float(key)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _size(name: str, epsilon: float) -> str:
    return f"{'σ' if is_noise(name) else 'ε'} = {radius(epsilon)}"
