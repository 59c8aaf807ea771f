"""The page of Figure 2: for each λ a panel with the true function, the samples, the network and its steepest pair."""

from collections.abc import Mapping, Sequence
from typing import Any

from cheaplip.report.paper.parts import Grid, Page, Part, entry, largest_quotient, look, missing, trace
from cheaplip.report.plots.figure import Figure, layout, plain
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.study import Run, Study, number, numbers, section
from cheaplip.runs.numbers import three_digits

__all__ = ["regression"]

_TRUTH = look("truth", "--s0", dash="dash")
_SAMPLES = look("samples, with noise", "--s5", dash="none", symbol="circle")
_NETWORK = look("network", "--s1")
_STEEPEST = look("line through the steepest pair", "--s2", symbol="circle")
_LEGEND = (_TRUTH, _SAMPLES, _NETWORK, _STEEPEST)
_REACH = 0.5  # half the width of the line through the steepest pair, whose points are too close to be seen apart
_SETS = {
    "paper": ("The paper’s pairs", "They are drawn anew in each epoch."),
    "tournament": (
        "The tournament’s pairs",
        "Pairs climb, and the weakest are replaced by new ones. This is not in the paper.",
    ),
}
_FLAT = 1e-3  # a slope that is smaller than this fraction of the one without penalty is called flat


def regression(study: Study) -> Page:
    """Show the network that was fitted to a few noisy samples of a function, for each λ."""
    kinds = dict.fromkeys(str(run.row.get("pairs", "paper")) for run in study.runs)
    parts = [_part(kind, [run for run in study.runs if str(run.row.get("pairs", "paper")) == kind]) for kind in kinds]
    return Page(_headline(study.runs), (*parts, _figures(study.runs)))


def _headline(runs: Sequence[Run]) -> Headline:
    slopes = [
        (lam, slope, run)
        for run in runs
        if (lam := number(run.row.get("lam"))) is not None
        if (slope := largest_quotient(run)) is not None
    ]
    details = [
        "The largest quotient is the steepest slope of the curve. It is exact here, because the network has only one "
        "input. The paper shows this figure without numbers, so there are none to compare with.",
    ]
    errors = [(error, run) for run in runs if (error := number(run.row.get("error"))) is not None]
    if errors:
        least, best = min(errors, key=lambda found: found[0])
        nearest = three_digits(least)
        details.insert(
            0, f"Nearest to the true function, also between the samples: {best.name}, with an error of {nearest}."
        )
    free = next((slope for lam, slope, _ in slopes if lam == 0), None)
    if free is None or not any(lam > 0 for lam, _, _ in slopes):
        return Headline("A network fitted with several weights λ of the penalty.", tuple(details))
    lam, slope, _ = max(slopes, key=lambda found: found[0])
    how = "flat" if slope < _FLAT * free else "flatter" if slope < free else "no flatter"
    sentence = (
        f"With a strong penalty the fitted curve becomes {how}: its steepest slope is {three_digits(slope)} "
        f"at λ = {lam:g}, and {three_digits(free)} without penalty."
    )
    return Headline(sentence, tuple(details))


def _figures(runs: Sequence[Run]) -> Part:
    loss, error = ("training loss", "mean squared error"), ("error", "against the truth, RMSE")
    heads = (("λ", "and pairs"), loss, error, ("quotient", "largest, exact"))
    rows = tuple(
        (
            run.name,
            (entry(number(run.row.get("loss"))), entry(number(run.row.get("error"))), entry(largest_quotient(run))),
        )
        for run in runs
    )
    lead = "Rows are in order of training: each network starts from the weights of the one before."
    return Part("figures", "The figures", lead, grid=Grid(heads, rows))


def _part(kind: str, runs: Sequence[Run]) -> Part:
    title, lead = _SETS.get(kind, (kind, ""))
    panels = [(run, _panel(run.name, run.row)) for run in runs]
    gap = missing([run.name for run, panel in panels if panel is None], "curve")
    return Part(f"pairs-{kind}", title, lead, _LEGEND, tuple(panel for _, panel in panels if panel), gap=gap)


def _panel(name: str, row: Mapping[str, Any]) -> Figure | None:
    curve, samples, pair = section(row, "curve"), section(row, "samples"), section(row, "steepest")
    x, y = numbers(curve.get("x")), numbers(curve.get("y"))
    if not x or len(x) != len(y):
        return None
    data = []
    truth = numbers(curve.get("truth"))
    sampled = numbers(samples.get("x")), numbers(samples.get("y"))
    if len(truth) == len(x):
        data.append(trace(_TRUTH, x, truth))
    if len(sampled[0]) == len(sampled[1]):
        data.append(trace(_SAMPLES, *sampled))
    data.append(trace(_NETWORK, x, y))
    u, fu = numbers(pair.get("x")), numbers(pair.get("y"))
    steepest = ""
    if len(u) == len(fu) == 2 and u[0] != u[1]:
        slope = (fu[1] - fu[0]) / (u[1] - u[0])
        middle, height = sum(u) / 2, sum(fu) / 2
        ends = [middle - _REACH, middle, middle + _REACH]
        data.append(trace(_STEEPEST, ends, [height + slope * (end - middle) for end in ends]))
        steepest = f" The steepest pair is at x = {middle:.2f}, with a slope of {three_digits(slope)}."
    axes = layout("x (no unit)", "f(x) (no unit)")
    axes["xaxis"] |= {"range": [-4.2, 4.2]}
    axes["yaxis"] |= {"range": [-0.25, 0.75]}
    alt = (
        f"Line plot of f(x) against x, {name}: the network goes from {three_digits(min(y))} to {three_digits(max(y))}, "
        f"the truth from {three_digits(min(truth, default=0))} to {three_digits(max(truth, default=0))}.{steepest}"
    )
    return Figure(plain(name), alt, data, axes)
