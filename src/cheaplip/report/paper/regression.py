"""The page of Figure 2: a panel for each λ with truth, samples, network and the steepest pair."""

from collections.abc import Mapping, Sequence
from typing import Any

from cheaplip.report.headline import Headline
from cheaplip.report.paper.parts import Entry, Grid, Page, Part, look, missing, trace
from cheaplip.report.plot import Figure, layout, plain
from cheaplip.report.read import Run, Study, number, section
from cheaplip.report.wording import figure

__all__ = ["regression"]

_TRUTH = look("truth", "--s0", dash="dash")
_SAMPLES = look("samples, with noise", "--s5", dash="none", symbol="circle")
_NETWORK = look("network", "--s1")
_STEEPEST = look("steepest pair, drawn out", "--s2", symbol="circle")
_LEGEND = (_TRUTH, _SAMPLES, _NETWORK, _STEEPEST)
_REACH = 0.5  # of the line through the steepest pair, to either side: the pair itself is too close to see
_SETS = {
    "paper": ("The paper’s pairs", "Drawn anew in each epoch."),
    "tournament": ("The tournament’s pairs", "Pairs climb, the weakest make room for newcomers; not in the paper."),
}
_FLAT = 1e-3  # of the largest slope: what is called flat


def regression(study: Study) -> Page:
    """A network fitted to few noisy samples of a line, under each λ."""
    kinds = dict.fromkeys(str(run.row.get("pairs", "paper")) for run in study.runs)
    parts = [_part(kind, [run for run in study.runs if str(run.row.get("pairs", "paper")) == kind]) for kind in kinds]
    return Page(_headline(study.runs), (*parts, _figures(study.runs)))


def _headline(runs: Sequence[Run]) -> Headline:
    slopes = [
        (lam, slope, run)
        for run in runs
        if (lam := number(run.row.get("lam"))) is not None
        if (slope := _slope(run)) is not None
    ]
    details = [
        "The largest quotient is the steepest slope of the curve, exact here, for there is one input. "
        "The paper shows this figure without numbers, so there are none to put beside ours.",
    ]
    errors = [(error, run) for run in runs if (error := number(run.row.get("error"))) is not None]
    if errors:
        least, best = min(errors, key=lambda found: found[0])
        nearest = f"Nearest to the truth, between the samples too: {best.name}, with an error of {figure(least)}."
        details.insert(0, nearest)
    free = next((slope for lam, slope, _ in slopes if lam == 0), None)
    if free is None or not any(lam > 0 for lam, _, _ in slopes):
        return Headline("A regression under several weights of the penalty.", tuple(details))
    lam, slope, _ = max(slopes, key=lambda found: found[0])
    how = "flat" if slope < _FLAT * free else "flatter" if slope < free else "no flatter"
    sentence = (
        f"With a strong penalty the fitted curve becomes {how}: its steepest slope is {figure(slope)} "
        f"at λ = {lam:g}, and {figure(free)} without penalty."
    )
    return Headline(sentence, tuple(details))


def _slope(run: Run) -> float | None:
    return number(section(run.row, "lipschitz").get("lower"))


def _figures(runs: Sequence[Run]) -> Part:
    loss, error = ("training loss", "mean squared error"), ("error", "against the truth, RMSE")
    heads = (("λ", "and pairs"), loss, error, ("quotient", "largest, exact"))
    rows = tuple(
        (run.name, (_entry(number(run.row.get("loss"))), _entry(number(run.row.get("error"))), _entry(_slope(run))))
        for run in runs
    )
    lead = "In order of training: each λ starts from the network of the one before."
    return Part("figures", "The figures", lead, grid=Grid(heads, rows))


def _entry(value: float | None) -> Entry:
    return Entry("–") if value is None else Entry(figure(value), value)


def _part(kind: str, runs: Sequence[Run]) -> Part:
    title, lead = _SETS.get(kind, (kind, ""))
    panels = [(run, _panel(run.name, run.row)) for run in runs]
    gap = missing([run.name for run, panel in panels if panel is None], "curve")
    return Part(f"pairs-{kind}", title, lead, _LEGEND, tuple(panel for _, panel in panels if panel), gap=gap)


def _panel(name: str, row: Mapping[str, Any]) -> Figure | None:
    curve, samples, pair = section(row, "curve"), section(row, "samples"), section(row, "steepest")
    x, y = _numbers(curve.get("x")), _numbers(curve.get("y"))
    if not x or len(x) != len(y):
        return None
    data = []
    truth = _numbers(curve.get("truth"))
    sampled = _numbers(samples.get("x")), _numbers(samples.get("y"))
    if len(truth) == len(x):
        data.append(trace(_TRUTH, x, truth))
    if len(sampled[0]) == len(sampled[1]):
        data.append(trace(_SAMPLES, *sampled))
    data.append(trace(_NETWORK, x, y))
    u, fu = _numbers(pair.get("x")), _numbers(pair.get("y"))
    steepest = ""
    if len(u) == len(fu) == 2 and u[0] != u[1]:
        slope = (fu[1] - fu[0]) / (u[1] - u[0])
        middle, height = sum(u) / 2, sum(fu) / 2
        ends = [middle - _REACH, middle, middle + _REACH]
        data.append(trace(_STEEPEST, ends, [height + slope * (end - middle) for end in ends]))
        steepest = f" The steepest pair is at x = {middle:.2f}, with a slope of {figure(slope)}."
    axes = layout("x (no unit)", "f(x) (no unit)")
    axes["xaxis"] |= {"range": [-4.2, 4.2]}
    axes["yaxis"] |= {"range": [-0.25, 0.75]}
    alt = (
        f"Line plot of f(x) against x, {name}: the network goes from {figure(min(y))} to {figure(max(y))}, "
        f"the truth from {figure(min(truth, default=0))} to {figure(max(truth, default=0))}.{steepest}"
    )
    return Figure(plain(name), alt, data, axes)


def _numbers(values: Any) -> list[float]:
    found = [number(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None] if None not in found else []
