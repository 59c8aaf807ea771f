"""The steepest pair of inputs found, to look at: two images and their difference, or bars."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cheaplip.report.kind import Kind
from cheaplip.report.plot import Figure, Plotly, layout, plain
from cheaplip.report.png import data_uri
from cheaplip.report.read import Run, number, section
from cheaplip.report.table import Group
from cheaplip.report.wording import figure, percent

__all__ = ["Prediction", "Witness", "witness"]

_SMALLEST = 4  # pixels; smaller arrays are shown as bars
_BARS = 24
_COLD, _PAPER, _WARM = (0, 90, 160), (255, 255, 255), (200, 80, 0)


@dataclass(frozen=True)
class Prediction:
    """A class, and the model's confidence in it."""

    label: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.label}, {percent(self.confidence)}"


@dataclass(frozen=True)
class Witness:
    """What the page shows of a pair; ``missing`` says why there is none.

    Attributes:
        images: (name, alternative text, data URI) of u, v and v − u; none for tabular data.
        bars: of tabular data.
        predictions: at u and at v, to be written.
        facts: the pair's distance and quotient, in words.
    """

    group: Group
    seed: str
    missing: str = ""
    images: tuple[tuple[str, str, str], ...] = ()
    bars: Figure | None = None
    predictions: tuple[object, object] | None = None
    facts: str = ""


def witness(group: Group, kind: Kind) -> Witness:
    """The pair of a configuration's first run."""
    run = group.runs[0]
    pair = section(run.exhibits, "witness")
    if not pair:
        return Witness(group, run.seed, missing=_absent(run))
    u, v, shape = _floats(pair.get("u")), _floats(pair.get("v")), pair.get("shape")
    outputs = section(pair, "outputs")
    fu, fv = _floats(outputs.get("u")), _floats(outputs.get("v"))
    told = partial(_answer, kind) if kind.errors else partial(_prediction, run.names("classes", len(fu)))
    both = (told(fu), told(fv)) if fu and fv else None
    shown = Witness(group, run.seed, predictions=both, facts=_facts(pair, fu, fv))
    if not u or not v:
        return _with(shown, missing="The inputs are too large to be kept for a report, or were not recorded.")
    if not isinstance(shape, list) or math.prod(_sizes(shape)) != len(u) or len(u) != len(v):
        return _with(shown, missing=f"{run.folder}/report.json holds a pair whose shape and values disagree.")
    low, high = number(pair.get("low")), number(pair.get("high"))
    size = _image(_sizes(shape))
    if size is None:
        features = sorted(sorted(range(len(u)), key=lambda i: -abs(v[i] - u[i]))[:_BARS])
        unit = "standard deviations" if run.exhibits.get("scaling") == "standard" else "units of the input"
        return _with(shown, bars=_bars(group.name, u, v, features, run.names("features", len(u)), unit))
    return _with(shown, images=_images(u, v, size, _span(u, v, low, high), group.name))


def _with(shown: Witness, **changes: Any) -> Witness:
    return Witness(**{**shown.__dict__, **changes})


def _absent(run: Run) -> str:
    return run.problems[0] if run.problems else f"No pair in {run.folder}/report.json."


def _floats(value: Any) -> list[float]:
    """A list of finite numbers; empty for anything else."""
    numbers = [number(item) for item in value] if isinstance(value, list) else []
    return [item for item in numbers if item is not None] if None not in numbers else []


def _sizes(shape: Sequence[Any]) -> list[int]:
    return [size if isinstance(size, int) and size > 0 else 0 for size in shape]


def _image(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """(channels, height, width) of what can be shown as an image."""
    channels, height, width = (*([1] if len(shape) == 2 else []), *shape) if len(shape) in (2, 3) else (0, 0, 0)
    return (channels, height, width) if channels in (1, 3) and min(height, width) >= _SMALLEST else None


def _span(u: Sequence[float], v: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    if low is None or high is None or low >= high:
        low, high = min(*u, *v), max(*u, *v)
    return (low, high) if high > low else (low, low + 1)


def _images(
    u: Sequence[float], v: Sequence[float], shape: tuple[int, int, int], span: tuple[float, float], name: str
) -> tuple[tuple[str, str, str], ...]:
    difference = [b - a for a, b in zip(u, v, strict=True)]
    largest = max(map(abs, difference)) or 1.0
    low, high = span
    gain = (high - low) / largest
    return (
        ("u", f"the pair’s first input, of {name}", data_uri(_pixels(u, shape, low, high))),
        ("v", f"the pair’s second input, of {name}", data_uri(_pixels(v, shape, low, high))),
        (
            f"v − u, ×{figure(gain)}",
            f"their difference, of {name}, enlarged {figure(gain)} times: blue less, orange more",
            data_uri(_diverging(difference, shape, largest)),
        ),
    )


def _pixels(
    x: Sequence[float], shape: tuple[int, int, int], low: float, high: float
) -> list[list[tuple[int, int, int]]]:
    channels, height, width = shape
    plane = height * width

    def level(channel: int, place: int) -> int:
        return round(255 * min(1.0, max(0.0, (x[(channel % channels) * plane + place] - low) / (high - low))))

    return [
        [(level(0, place), level(1, place), level(2, place)) for place in range(row * width, (row + 1) * width)]
        for row in range(height)
    ]


def _diverging(
    difference: Sequence[float], shape: tuple[int, int, int], largest: float
) -> list[list[tuple[int, int, int]]]:
    """Blue where v is less than u, orange where it is more, white where they agree; channels are averaged."""
    channels, height, width = shape
    plane = height * width

    def color(place: int) -> tuple[int, int, int]:
        value = sum(difference[channel * plane + place] for channel in range(channels)) / channels / largest
        end = _WARM if value > 0 else _COLD
        red, green, blue = (round(p + (e - p) * min(1.0, abs(value))) for p, e in zip(_PAPER, end, strict=True))
        return red, green, blue

    return [[color(place) for place in range(row * width, (row + 1) * width)] for row in range(height)]


def _prediction(names: Sequence[str], outputs: Sequence[float]) -> Prediction:
    """The largest output and its softmax."""
    top = max(range(len(outputs)), key=lambda label: outputs[label])
    label = names[top] if names else f"class {top}"
    return Prediction(label, 1 / sum(math.exp(value - outputs[top]) for value in outputs))


def _answer(kind: Kind, outputs: Sequence[float]) -> str:
    return ", ".join(kind.tell(value) for value in outputs)


def _facts(pair: Any, fu: Sequence[float], fv: Sequence[float]) -> str:
    distance, quotient = number(pair.get("distance")), number(pair.get("quotient"))
    told = []
    if distance is not None:
        told.append(f"{figure(distance)} apart (L2)")
    if distance is not None and quotient is not None and fu and fv:
        told.append(f"outputs {figure(distance * quotient)} apart")
    if quotient is not None:
        told.append(f"quotient {figure(quotient)}")
    return ", ".join(told)


def _bars(
    name: str, u: Sequence[float], v: Sequence[float], features: Sequence[int], names: Sequence[str], unit: str
) -> Figure:
    """The witness pair of tabular data: both inputs and, enlarged to their size, the difference."""
    largest = max(abs(v[feature] - u[feature]) for feature in features) or 1.0
    gain = (max(abs(value) for feature in features for value in (u[feature], v[feature])) or 1.0) / largest
    ticks = [f"{feature + 1}" for feature in features]
    texts = [plain(names[feature]) for feature in features] if names else ticks
    series = {
        "u": ([u[feature] for feature in features], "--s1"),
        "v": ([v[feature] for feature in features], "--s2"),
        f"v − u, ×{figure(gain)}": ([gain * (v[feature] - u[feature]) for feature in features], "--s0"),
    }
    data: list[Plotly] = [
        {
            "type": "bar",
            "name": label,
            "x": ticks,
            "y": heights,
            "marker": {"color": color},
            "customdata": texts,
            "hovertemplate": "feature %{customdata}: %{y:.3g}",
        }
        for label, (heights, color) in series.items()
    ]
    axes = layout("feature" if names else "feature (number of the column)", f"value ({unit})")
    axes["xaxis"] |= {"type": "category", "tickvals": ticks, "ticktext": texts, "automargin": True}
    axes |= {"barmode": "group", "showlegend": True, "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"}}
    alt = f"Bar plot of the two inputs of the steepest pair of {name}, feature by feature, and of their difference."
    return Figure("Both inputs and their difference", alt, data, axes)
