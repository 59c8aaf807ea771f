"""The page of Figure 1: two images before and after the gradient ascent, with class and confidence."""

from typing import Any

from cheaplip.report.cards.png import Pixels, data_uri
from cheaplip.report.paper.parts import Entry, Grid, Page, Part, Picture
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.study import Run, Study, number
from cheaplip.runs.numbers import percent, three_digits

__all__ = ["pair"]


def pair(study: Study) -> Page:
    """Show two images that are taken for each other's class after the ascent, or the pair that came nearest to it."""
    pictures = tuple(_picture(run) for run in study.runs)
    rows = tuple((run.name, _entries(run)) for run in study.runs)
    heads = (("confidence", ""), ("before", ""), ("after", ""), ("quotient", "before → after"), ("as in the paper", ""))
    lead = (
        "The aim, as in the paper: before the ascent, each image is classified with a confidence above 90\u202f%; "
        "after it, each is taken for the other’s class, with a confidence below 30\u202f%. Confidence is read in two "
        "ways: as a sigmoid for each class, or as a softmax over all classes."
    )
    parts = (
        Part("images", "The images", lead, pictures=pictures),
        Part("figures", "The figures", grid=Grid(heads, rows)),
    )
    return Page(_headline(study), parts)


def _headline(study: Study) -> Headline:
    def confidences(holds: bool) -> str:
        kinds = [str(run.row.get("confidence", run.name)) for run in study.runs if run.row.get("holds") is holds]
        return " and ".join(f"{kind} confidences" for kind in kinds)

    found, lost = confidences(True), confidences(False)
    details = (
        "The network was trained without the penalty. The only numbers that the paper publishes of its own pair are "
        "the limits below.",
    )
    if found:
        sentence = (
            "After a gradient ascent, the network takes each of two images for the other’s class, though it was sure "
            f"of both before: found with {found}{f', not with {lost}' if lost else ''}."
        )
    else:
        sentence = "No pair of images was found that the network swaps as in the paper. The page shows the nearest one."
    return Headline(sentence, details)


def _shown(run: Run, when: str) -> list[tuple[str, list[list[float]]]]:
    """Caption and pixels of the two images; empty unless both are whole."""
    images = run.row.get(when)
    found = [_image(image) for image in images] if isinstance(images, list) else []
    whole = [image for image in found if image is not None]
    return whole if len(whole) == len(found) == 2 else []


def _image(image: Any) -> tuple[str, list[list[float]]] | None:
    if not isinstance(image, dict) or not isinstance(lines := image.get("pixels"), list) or not lines:
        return None
    sure = number(image.get("confidence"))
    pixels = [[number(pixel) for pixel in line] if isinstance(line, list) else [] for line in lines]
    width = len(pixels[0])
    if sure is None or not width or any(len(line) != width or None in line for line in pixels):
        return None
    caption = f"{image.get('class', 'unknown class')}, {percent(sure)}"
    return caption, [[pixel for pixel in line if pixel is not None] for line in pixels]


def _picture(run: Run) -> Picture:
    kind = str(run.row.get("confidence", "")) or run.name
    both = [(when, *image) for when in ("before", "after") for image in _shown(run, when)]
    if len(both) != 4:
        return Picture(run.name, (), missing=f"“{run.name}” does not hold both images.")
    images = tuple(
        (f"{when}: {caption}", f"image {when} the ascent, taken for {caption} by the {kind}", data_uri(_grey(pixels)))
        for when, caption, pixels in both
    )
    steps, size = number(run.row.get("steps")), number(run.row.get("step_size"))
    note = "" if steps is None or size is None else f"After {steps:g} steps of the ascent with step size {size:g}."
    return Picture(run.name, images, note)


def _grey(pixels: list[list[float]]) -> Pixels:
    levels = [[round(255 * min(1.0, max(0.0, pixel))) for pixel in line] for line in pixels]
    return [[(level, level, level) for level in line] for line in levels]


def _entries(run: Run) -> tuple[Entry, ...]:
    quotients = run.row.get("quotients")
    both = [number(value) for value in quotients] if isinstance(quotients, list) else []
    known = [value for value in both if value is not None]
    holds = run.row.get("holds")
    return (
        *(Entry("; ".join(caption for caption, _ in _shown(run, when)) or "–") for when in ("before", "after")),
        Entry(" → ".join(three_digits(value) for value in known), known[-1]) if len(known) == 2 else Entry("–"),
        Entry("yes", 1.0) if holds is True else Entry("no, the nearest found", 0.0) if holds is False else Entry("–"),
    )
