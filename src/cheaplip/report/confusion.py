"""The confusion matrix: who is taken for whom."""

import math
from dataclasses import dataclass

from cheaplip.report.read import number
from cheaplip.report.table import Group
from cheaplip.report.wording import percent

__all__ = ["Confusion", "Square", "confusion"]

_LARGEST = 40  # classes; beyond that the matrix cannot be read


@dataclass(frozen=True)
class Square:
    """A count, and how strongly it is tinted, in [0, 1]: right answers lightly, errors by the root of their share."""

    count: int
    right: bool
    tint: float


@dataclass(frozen=True)
class Confusion:
    """A line for each true class, named or numbered; ``missing`` says why there is none."""

    group: Group
    seed: str
    missing: str = ""
    lines: tuple[tuple[Square, ...], ...] = ()
    names: tuple[str, ...] = ()
    summary: str = ""


def confusion(group: Group) -> Confusion:
    """The matrix of a configuration's first run, on its test data."""
    run = group.runs[0]
    counts = run.exhibits.get("confusion")
    if counts is None:
        return Confusion(group, run.seed, missing=f"No confusion matrix in {run.folder}/report.json.")
    matrix = _square(counts)
    if not matrix:
        missing = f"The confusion matrix in {run.folder}/report.json is not a square of counts."
        return Confusion(group, run.seed, missing=missing)
    if len(matrix) > _LARGEST:
        return Confusion(group, run.seed, missing=f"{len(matrix)} classes are too many to show; up to {_LARGEST} are.")
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
    numbers = tuple(map(str, range(len(matrix))))
    summary = _summary(matrix, names or tuple(f"class {number}" for number in numbers), *most)
    return Confusion(group, run.seed, lines=lines, names=names or numbers, summary=summary)


def _square(counts: object) -> list[list[int]]:
    """The counts; empty unless they are a square of whole numbers of at least 0."""
    if not isinstance(counts, list) or not all(isinstance(line, list) and len(line) == len(counts) for line in counts):
        return []
    numbers = [[number(count) for count in line] for line in counts]
    if any(count is None or count < 0 or count != int(count) for line in numbers for count in line):
        return []
    return [[int(count) for count in line if count is not None] for line in numbers]


def _summary(matrix: list[list[int]], names: tuple[str, ...], most: int, true: int, given: int) -> str:
    total, right = sum(map(sum, matrix)), sum(matrix[i][i] for i in range(len(matrix)))
    if not total:
        return "No test inputs."
    told = f"{right:,} of {total:,} right ({percent(right / total)})."
    often = "once" if most == 1 else f"{most:,} times"
    return told if most == 0 else f"{told} Most frequent error: {names[true]} taken for {names[given]}, {often}."
