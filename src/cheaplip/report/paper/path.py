"""The page of Propositions 2 to 4: checks as numbers, loss and constant along λ."""

from collections.abc import Sequence

from cheaplip.report.headline import Headline
from cheaplip.report.paper.parts import Entry, Grid, Page, Part, look, missing, trace
from cheaplip.report.plot import Figure, layout
from cheaplip.report.read import Run, Study, number, section
from cheaplip.report.table import Group
from cheaplip.report.wording import figure

__all__ = ["path"]

_PATH = look("along λ", "--s1", symbol="square")
_PLAIN = look("plain training", "--s0", dash="dash")
_SMALLEST = look("smallest constant that fits the data", "--s2", dash="dot")
_TASKS = {
    "regression": ("Regression", "The samples of Figure 2; λ falls, each network starts from the one before."),
    "interpolation": ("Interpolation", "Eight points that can be fitted exactly; λ falls."),
    "digits": (
        "Digits",
        "Handwritten digits; λ rises. The constant is the largest quotient that a search found.",
    ),
}


def path(study: Study) -> Page:
    """Loss and constant against λ for each task, and whether they do as the propositions say."""
    checks = [run for run in study.runs if run.row.get("check") is True]
    rows = [run for run in study.runs if run.row.get("check") is not True]
    tasks = _by_task(rows)
    return Page(_headline(checks), (_checks(checks), *(_part(task, runs) for task, runs in tasks.items())))


def _headline(checks: Sequence[Run]) -> Headline:
    details = (
        "Proposition 2: with a growing λ the loss does not fall and the constant does not rise. "
        "Proposition 3: with a vanishing λ the fit is the flattest there is. "
        "Proposition 4: with a large λ the network gives one answer to everything, the average label.",
    )
    held = sum(run.row.get("holds") is True for run in checks)
    if not checks:
        return Headline("The path along λ, without checks yet.", details)
    if held == len(checks):
        return Headline(f"The networks do as the theory says: all {held} checks of Propositions 2 to 4 hold.", details)
    return Headline(f"{held} of {len(checks)} checks of Propositions 2 to 4 hold; {len(checks) - held} fail.", details)


def _checks(checks: Sequence[Run]) -> Part:
    heads = (("check", ""), ("value", "measured"), ("expected", ""), ("holds", ""))
    rows = tuple(
        (run.name, (_entry(number(run.row.get("value"))), Entry(str(run.row.get("limit", "–"))), _held(run)))
        for run in checks
    )
    lead = "Violations are differences against the expected direction, as a fraction of the whole range."
    gap = "" if checks else "No checks in these rows: no task is finished yet."
    return Part("checks", "The checks", lead, grid=Grid(heads, rows) if rows else None, gap=gap)


def _held(run: Run) -> Entry:
    holds = run.row.get("holds")
    return Entry("yes", 1.0) if holds is True else Entry("no", 0.0) if holds is False else Entry("–")


def _entry(value: float | None) -> Entry:
    return Entry("–") if value is None else Entry(figure(value), value)


def _by_task(rows: Sequence[Run]) -> dict[str, list[Run]]:
    """Rows are named after their task; plain training comes first in its own."""
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
    title, lead = _TASKS.get(task, (task, ""))
    known = [(lam, run) for run in runs if (lam := number(run.row.get("lam"))) is not None and lam > 0]
    steered = sorted(known, key=lambda found: found[0])
    loss = [(lam, number(run.row.get("loss"))) for lam, run in steered]
    constant = [(lam, number(section(run.row, "lipschitz").get("lower"))) for lam, run in steered]
    free = next((run for run in runs if run.method == "plain"), None)
    smallest = next((value for run in runs if (value := number(run.row.get("smallest_constant")))), None)
    unit, distance = ("nats", "probability") if task == "digits" else ("mean squared error", "σ of the labels")
    unsteered = None if free is None else number(section(free.row, "lipschitz").get("lower"))
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
            tuple(
                _entry(value)
                for value in (
                    number(run.row.get("loss")),
                    number(section(run.row, "lipschitz").get("lower")),
                    number(run.row.get("barycentre")),
                )
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
    known = [(lam, value) for lam, value in points if value is not None]
    if not known:
        return None
    x, y = [lam for lam, _ in known], [value for _, value in known]
    data = [trace(_PATH, x, y)]
    ends = [min(x), max(x)]
    told = [f"from {figure(y[0])} at λ = {x[0]:g} to {figure(y[-1])} at λ = {x[-1]:g}"]
    for level, value in levels:
        if value is not None:
            data.append(trace(level, ends, [value, value]))
            told.append(f"{level.name} {figure(value)}")
    axes = layout("λ, the penalty’s weight (no unit), log", axis)
    axes["xaxis"] |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    axes["yaxis"] |= {"rangemode": "tozero"}
    return Figure(title, f"Line plot over λ. {title}: {'; '.join(told)}.", data, axes)
