"""The confusion matrix: how many test inputs of each class were given which class."""

import math
from dataclasses import dataclass

from cheaplip.report.study import number
from cheaplip.report.table import Group
from cheaplip.runs.numbers import percent

__all__ = ["Confusion", "Square", "confusion"]

_LARGEST = 40  # classes; a larger matrix cannot be read


@dataclass(frozen=True)
class Square:
    """A count of the matrix.

    Attributes:
        count: of test inputs.
        right: whether they were given their own class.
        tint: how strongly the page colours it, in [0, 1]: right answers by their share of the class, errors by the
            square root of their share over the largest one, so that small ones are seen.
    """

    count: int
    right: bool
    tint: float


@dataclass(frozen=True)
class Confusion:
    """The matrix of a configuration's first run.

    Attributes:
        group, seed: whose.
        missing: why there is none; ``""`` where there is one.
        lines: for each true class its counts.
        names: of the classes, or their numbers.
        summary: the matrix in words.
    """

    group: Group
    seed: str
    missing: str = ""
    lines: tuple[tuple[Square, ...], ...] = ()
    names: tuple[str, ...] = ()
    summary: str = ""


def confusion(group: Group) -> Confusion:
    """Make the confusion matrix of a configuration's first run."""
    run = group.runs[0]
    counts = run.exhibits.get("confusion")
    if counts is None:
        return Confusion(group, run.seed, missing=f"No confusion matrix in {run.folder}/report.json.")
    matrix = _square(counts)
    if not matrix:
        missing = f"The confusion matrix in {run.folder}/report.json is not a square of counts."
        return Confusion(group, run.seed, missing=missing)
    if len(matrix) > _LARGEST:
        missing = f"The confusion matrix is shown for up to {_LARGEST} classes; here there are {len(matrix)}."
        return Confusion(group, run.seed, missing=missing)
    errors = [(matrix[i][j], i, j) for i in range(len(matrix)) for j in range(len(matrix)) if i != j]
    most = max(errors, default=(0, 0, 0))
    shares = [[count / max(1, sum(line)) for count in line] for line in matrix]
    worst = max((shares[i][j] for _, i, j in errors), default=0.0) or 1.0
    lines = tuple(
        tuple(
            Square(count, i == j, shares[i][j] if i == j else math.sqrt(shares[i][j] / worst))
            for j, count in enumerate(line)
        )
        for i, line in enumerate(matrix)
    )
    names = run.names("classes", len(matrix))
    ordinals = tuple(map(str, range(len(matrix))))
    summary = _summary(matrix, names or tuple(f"class {ordinal}" for ordinal in ordinals), *most)
    return Confusion(group, run.seed, lines=lines, names=names or ordinals, summary=summary)


def _square(counts: object) -> list[list[int]]:
    """The counts; empty unless they are a square of whole numbers of at least 0."""
    if not isinstance(counts, list) or not all(isinstance(line, list) and len(line) == len(counts) for line in counts):
        return []
    numbers = [[number(count) for count in line] for line in counts]
    if any(count is None or count < 0 or count != int(count) for line in numbers for count in line):
        return []
    return [[int(count) for count in line if count is not None] for line in numbers]


def _summary(matrix: list[list[int]], names: tuple[str, ...], most: int, true: int, given: int) -> str:
    """The share of right answers, and the most frequent error: ``most`` inputs of class ``true`` given ``given``."""
    total, right = sum(map(sum, matrix)), sum(matrix[i][i] for i in range(len(matrix)))
    if not total:
        return "No test inputs."
    summary = f"{right:,} of {total:,} right ({percent(right / total)})."
    often = "once" if most == 1 else f"{most:,} times"
    return summary if most == 0 else f"{summary} Most frequent error: {names[true]} taken for {names[given]}, {often}."
