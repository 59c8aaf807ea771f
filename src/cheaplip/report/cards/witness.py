"""The steepest pair of inputs found, the witness of the largest quotient: as images, or as bars."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cheaplip.report.cards.bars import pair_bars
from cheaplip.report.cards.images import image_shape, pair_images
from cheaplip.report.plots.figure import Figure
from cheaplip.report.study import Run, number, numbers, section
from cheaplip.report.table import Group
from cheaplip.runs.numbers import percent, three_digits
from cheaplip.runs.words import Words

__all__ = ["Witness", "witness"]


@dataclass(frozen=True)
class Witness:
    """What the page shows of a pair (u, v).

    Attributes:
        group, seed: whose it is.
        missing: why the inputs are not shown; ``""`` where they are.
        images: caption, alternative text and data URI of u, v and v − u; empty where the inputs are no images.
        bars: where the inputs are no images.
        predictions: the model's answers at u and at v, in words.
        facts: the pair's distance and quotient, in words.
    """

    group: Group
    seed: str
    missing: str = ""
    images: tuple[tuple[str, str, str], ...] = ()
    bars: Figure | None = None
    predictions: tuple[str, str] | None = None
    facts: str = ""


def witness(group: Group, words: Words) -> Witness:
    """Show the steepest pair of a configuration's first run."""
    run = group.runs[0]
    pair = section(run.exhibits, "witness")
    if not pair:
        return Witness(group, run.seed, missing=_why_missing(run))
    outputs = section(pair, "outputs")
    fu, fv = numbers(outputs.get("u")), numbers(outputs.get("v"))
    answer: Callable[[Sequence[float]], str] = (
        partial(_values, words) if words.errors else partial(_class, run.names("classes", len(fu)))
    )
    both = (answer(fu), answer(fv)) if fu and fv else None
    shown = Witness(group, run.seed, predictions=both, facts=_facts(pair, both_known=bool(fu and fv)))
    u, v, shape = numbers(pair.get("u")), numbers(pair.get("v")), pair.get("shape")
    if not u or not v:
        return replace(shown, missing="The inputs are too large to be kept for a report, or were not recorded.")
    if not isinstance(shape, list) or _size(shape) != len(u) or len(u) != len(v):
        return replace(shown, missing=f"{run.folder}/report.json holds a pair whose shape and values disagree.")
    image = image_shape(shape)
    if image is not None:
        low, high = number(pair.get("low")), number(pair.get("high"))
        return replace(shown, images=pair_images(u, v, image, low, high, group.name))
    return replace(shown, bars=pair_bars(group.name, u, v, run.names("features", len(u)), run.unit))


def _why_missing(run: Run) -> str:
    return run.problems[0] if run.problems else f"No pair in {run.folder}/report.json."


def _size(shape: Sequence[Any]) -> int:
    """The number of values of an input; 0 where the shape is none."""
    return math.prod(size if isinstance(size, int) and size > 0 else 0 for size in shape)


def _class(names: Sequence[str], logits: Sequence[float]) -> str:
    """The class of the largest logit, and its probability after a softmax."""
    top = max(range(len(logits)), key=lambda label: logits[label])
    confidence = 1 / sum(math.exp(value - logits[top]) for value in logits)
    return f"{names[top] if names else f'class {top}'}, {percent(confidence)}"


def _values(words: Words, outputs: Sequence[float]) -> str:
    """The outputs of a regression."""
    return ", ".join(words.in_text(value) for value in outputs)


def _facts(pair: Any, *, both_known: bool) -> str:
    """Distance and quotient, and the distance of the outputs where both outputs are known."""
    distance, quotient = number(pair.get("distance")), number(pair.get("quotient"))
    phrases = []
    if distance is not None:
        phrases.append(f"inputs {three_digits(distance)} apart (L2)")
    if distance is not None and quotient is not None and both_known:
        phrases.append(f"outputs {three_digits(distance * quotient)} apart")
    if quotient is not None:
        phrases.append(f"quotient {three_digits(quotient)}")
    return ", ".join(phrases)
