"""The page of Propositions 2 to 4: their checks, and how loss and Lipschitz constant depend on λ."""

from collections.abc import Sequence

from cheaplip.report.methods import BASELINE
from cheaplip.report.paper.parts import Entry, Grid, Page, Part, entry, largest_quotient, look, missing, trace
from cheaplip.report.plots.figure import Figure, layout
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.study import Run, Study, number
from cheaplip.report.table import Group
from cheaplip.runs.numbers import three_digits

__all__ = ["path"]

_PATH = look("along λ", "--s1", symbol="square")
_PLAIN = look("plain training", "--s0", dash="dash")
_SMALLEST = look("smallest constant that fits the data", "--s2", dash="dot")
_TASKS = {
    "regression": (
        "Regression",
        "The samples of Figure 2. λ falls, and each network is trained from the weights of the one before.",
    ),
    "interpolation": ("Interpolation", "Eight points that can be fitted exactly. λ falls."),
    "digits": (
        "Digits",
        "Handwritten digits. λ rises. The constant is the largest quotient that a search found.",
    ),
}


def path(study: Study) -> Page:
    """Plot loss and Lipschitz constant against λ for each task, and list the checks of the propositions."""
    checks = [run for run in study.runs if run.row.get("check") is True]
    rows = [run for run in study.runs if run.row.get("check") is not True]
    tasks = _by_task(rows)
    return Page(_headline(checks), (_checks(checks), *(_part(task, runs) for task, runs in tasks.items())))


def _headline(checks: Sequence[Run]) -> Headline:
    details = (
        "Proposition 2: as λ grows, the loss does not fall and the Lipschitz constant does not rise. "
        "Proposition 3: as λ vanishes, the network becomes the flattest one that fits the data. "
        "Proposition 4: for a large λ, the network answers every input with the average label.",
    )
    held = sum(run.row.get("holds") is True for run in checks)
    if not checks:
        return Headline("Networks trained with a range of λ. The propositions have not been checked yet.", details)
    if held == len(checks):
        return Headline(
            f"The networks behave as the theory says: all {held} checks of Propositions 2 to 4 hold.", details
        )
    return Headline(f"{held} of {len(checks)} checks of Propositions 2 to 4 hold; {len(checks) - held} fail.", details)


def _checks(checks: Sequence[Run]) -> Part:
    heads = (("check", ""), ("value", "measured"), ("expected", ""), ("holds", ""))
    rows = tuple(
        (run.name, (entry(number(run.row.get("value"))), Entry(str(run.row.get("limit", "–"))), _held(run)))
        for run in checks
    )
    lead = "A violation is a step in the wrong direction; its size is given as a fraction of the whole range."
    gap = "" if checks else "There are no checks yet, because no task is finished."
    return Part("checks", "The checks", lead, grid=Grid(heads, rows) if rows else None, gap=gap)


def _held(run: Run) -> Entry:
    holds = run.row.get("holds")
    return Entry("yes", 1.0) if holds is True else Entry("no", 0.0) if holds is False else Entry("–")


def _by_task(rows: Sequence[Run]) -> dict[str, list[Run]]:
    """Group the rows by task.

    The names of rows begin with their task and a comma. A row without a task, plain training, belongs to the task of
    the rows after it.
    """
    tasks: dict[str, list[Run]] = {}
    waiting: list[Run] = []
    for run in rows:
        task, named, _ = run.name.partition(",")
        waiting.append(run)
        if named:
            tasks.setdefault(task, []).extend(waiting)
            waiting = []
    if waiting:
        tasks.setdefault("others", []).extend(waiting)
    return tasks


def _part(task: str, runs: Sequence[Run]) -> Part:
    """The section of one task: both plots, and a table."""
    title, lead = _TASKS.get(task, (task, ""))
    known = [(lam, run) for run in runs if (lam := number(run.row.get("lam"))) is not None and lam > 0]
    steered = sorted(known, key=lambda found: found[0])
    loss = [(lam, number(run.row.get("loss"))) for lam, run in steered]
    constant = [(lam, largest_quotient(run)) for lam, run in steered]
    free = next((run for run in runs if run.method == BASELINE), None)
    smallest = next((value for run in runs if (value := number(run.row.get("smallest_constant")))), None)
    unit, distance = ("nats", "probability") if task == "digits" else ("mean squared error", "σ of the labels")
    unsteered = None if free is None else largest_quotient(free)
    levels = [(_PLAIN, unsteered), (_SMALLEST, smallest)]
    plots = [
        _along(f"{title}: training loss", f"loss ({unit})", loss, []),
        _along(f"{title}: largest quotient", "largest quotient (L2 ÷ L2)", constant, levels),
    ]
    legend = (_PATH, *(level for level, value in levels if value is not None))
    away = ("distance", f"from the average label, {distance}")
    heads = (("λ", ""), ("training loss", unit), ("quotient", "largest"), away)
    rows = tuple(
        (
            run.name.removeprefix(f"{task}, "),
            (
                entry(number(run.row.get("loss"))),
                entry(largest_quotient(run)),
                entry(number(run.row.get("barycentre"))),
            ),
        )
        for run in runs
    )
    shown = tuple(plot for plot in plots if plot is not None)
    gap = "" if len(shown) == len(plots) else missing([title], "loss or quotient")
    return Part(f"task-{task}", title, lead, legend if shown else (), shown, grid=Grid(heads, rows), gap=gap)


def _along(
    title: str, axis: str, points: Sequence[tuple[float, float | None]], levels: Sequence[tuple[Group, float | None]]
) -> Figure | None:
    """A line over λ, and a horizontal line for each known level; None where no point is known."""
    known = [(lam, value) for lam, value in points if value is not None]
    if not known:
        return None
    x, y = [lam for lam, _ in known], [value for _, value in known]
    data = [trace(_PATH, x, y)]
    ends = [min(x), max(x)]
    phrases = [f"from {three_digits(y[0])} at λ = {x[0]:g} to {three_digits(y[-1])} at λ = {x[-1]:g}"]
    for level, value in levels:
        if value is not None:
            data.append(trace(level, ends, [value, value]))
            phrases.append(f"{level.name} {three_digits(value)}")
    axes = layout("λ, the penalty’s weight (no unit), log", axis)
    axes["xaxis"] |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    axes["yaxis"] |= {"rangemode": "tozero"}
    return Figure(title, f"Line plot over λ. {title}: {'; '.join(phrases)}.", data, axes)
