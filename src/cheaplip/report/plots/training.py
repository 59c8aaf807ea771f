"""The plots of a training: accuracy or error, loss, largest quotient and λ over the epochs."""

from collections.abc import Sequence

from cheaplip.report.plots.figure import Figure, Plotly, layout, line, plain
from cheaplip.report.study import Run, number
from cheaplip.report.table import Group
from cheaplip.runs.numbers import percent, three_digits
from cheaplip.runs.words import Words, capitalised, part_of_data

__all__ = ["training_curves"]

_STEEP = 20  # largest value over smallest, from which on an axis is logarithmic
_WIDE = 100  # the same ratio, from which on only powers of ten are labelled


def training_curves(rows: Sequence[Group], words: Words) -> list[Figure]:
    """Plot what the histories hold over the epochs, a line for each run."""
    plots = [
        *(_main_figure(rows, part, words) for part in ("train", "validation")),
        _over_epochs(rows, "Loss", "loss (÷ the labels’ variance)" if words.errors else "loss (nats)", ("loss",)),
        _over_epochs(rows, "Largest quotient", "quotient (L2 ÷ L2)", ("lower", "largest")),
        _over_epochs(rows, "λ, the penalty’s weight", "λ or μ (no unit)", ("lam",)),
    ]
    return [plot for plot in plots if plot is not None]


def _main_figure(rows: Sequence[Group], part: str, words: Words) -> Figure | None:
    """Accuracy or error on one part of the data, with the targets that had to be met there."""
    where = "in training" if part == "train" else f"on {part_of_data(part)} data"
    return _over_epochs(
        rows,
        f"{capitalised(words.noun)} {where}",
        words.axis(part_of_data(part)),
        (f"{part}_{words.key}",),
        targets=sorted(
            {
                group.target
                for group in rows
                if group.target is not None and group.target_on == part and not group.balanced
            }
        ),
        scale=words.scale,
    )


def _over_epochs(
    rows: Sequence[Group],
    title: str,
    axis: str,
    keys: tuple[str, ...],
    *,
    targets: Sequence[float] = (),
    scale: float = 1.0,
) -> Figure | None:
    """Plot keys of ``history.jsonl``; the lines of the second key are dotted. None where no history has them."""
    data, phrases = [], []
    for group in rows:
        for place, key in enumerate(keys):
            for run in group.runs:
                epochs, series = _series(run, key, scale)
                if not any(value is not None for value in series):
                    continue
                label = f"{group.name}, seed {run.seed}" + (" (pairs)" if place else "")
                trace = line(group, epochs, series, markers=len(epochs) == 1)
                trace |= {"name": plain(label)}
                trace["line"] |= {"width": 1.6} | ({"dash": "dot"} if place else {})
                data.append(trace)
                if run is group.runs[0] and place == 0:
                    last = next(value for value in reversed(series) if value is not None)
                    phrases.append(f"{group.name} ends at {three_digits(last)}")
    if not data:
        return None
    axes = layout("epoch", axis)
    axes["xaxis"] |= {"rangemode": "tozero"}
    shown = [value for trace in data for value in trace["y"] if value is not None]
    axes |= _target_lines(targets, scale)
    if scale == 100:
        axes["yaxis"]["range"] = _settled(data, [100 * target for target in targets])
    elif min(shown) > 0 and max(shown) / min(shown) > _STEEP:
        dense = max(shown) / min(shown) < _WIDE
        axes["yaxis"] |= {"type": "log", "dtick": "D2" if dense else 1, "exponentformat": "power"}
        axes["yaxis"]["title"] = {"text": f"{axis}, log"}
    if targets:
        phrases.append("target " + " and ".join(_target(target, scale) for target in targets))
    return Figure(title, f"Line plot over epochs, {title}: {'; '.join(phrases)}.", data, axes)


def _series(run: Run, key: str, scale: float) -> tuple[list[float], list[float | None]]:
    """The epochs and values of a key; None, a gap in the line, where a value is missing."""
    epochs, series = [], []
    for place, epoch in enumerate(run.history, start=1):
        value = number(epoch.get(key))
        epochs.append(number(epoch.get("epoch")) or float(place))
        series.append(None if value is None else scale * value)
    return epochs, series


def _settled(data: Sequence[Plotly], targets: Sequence[float]) -> list[float]:
    """The range of an axis that shows where accuracies settle; those of the first epochs may lie below it."""
    late = [value for trace in data for value in trace["y"][len(trace["y"]) // 3 :] if value is not None]
    low, high = min([*late, *targets], default=0.0), max([*late, *targets], default=100.0)
    air = max(0.5, 0.08 * (high - low))
    return [max(-3.0, low - air), min(high + air, 103.0)]


def _target(target: float, scale: float) -> str:
    return percent(target) if scale == 100 else three_digits(target)


def _target_lines(targets: Sequence[float], scale: float) -> Plotly:
    """A dashed line with a label for each target."""
    if not targets:
        return {}
    return {
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": scale * target,
                "y1": scale * target,
                "line": {"color": "--muted", "width": 1, "dash": "dash"},
            }
            for target in targets
        ],
        "annotations": [
            {
                "xref": "paper",
                "x": 0,
                "y": scale * target,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "text": f"target {100 * target:g}\u202f%" if scale == 100 else f"target {target:g}",
                "font": {"color": "--muted", "size": 11},
            }
            for target in targets
        ],
    }
