"""A pair of inputs as images: both inputs, and their difference in colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.report.cards.png import Pixels, data_uri
from cheaplip.runs.numbers import three_digits

__all__ = ["ImageShape", "image_shape", "pair_images"]

_SMALLEST = 4  # pixels; smaller arrays are no images
_LESS, _SAME, _MORE = (0, 90, 160), (255, 255, 255), (200, 80, 0)  # blue, white, orange


@dataclass(frozen=True)
class ImageShape:
    """The shape of an image; channels are 1 (grey) or 3 (red, green, blue)."""

    channels: int
    height: int
    width: int


def image_shape(shape: Sequence[Any]) -> ImageShape | None:
    """Read the shape (H, W) or (C, H, W) of an input that can be shown as an image; None for any other input."""
    if len(shape) not in (2, 3) or not all(isinstance(size, int) for size in shape):
        return None
    channels, height, width = (1, *shape) if len(shape) == 2 else shape
    found = ImageShape(channels, height, width)
    return found if channels in (1, 3) and min(height, width) >= _SMALLEST else None


def pair_images(
    u: Sequence[float], v: Sequence[float], shape: ImageShape, low: float | None, high: float | None, name: str
) -> tuple[tuple[str, str, str], ...]:
    """Draw both inputs and their difference.

    Args:
        u, v: pixels of both inputs, channel by channel, row by row.
        shape: of each.
        low, high: the values shown as black and as white; where there are none, the smallest and largest of the pixels.
        name: of the model that the pair belongs to.

    Returns:
        Caption, alternative text and data URI of each of the three images.
    """
    low, high = _span(u, v, low, high)
    difference = [b - a for a, b in zip(u, v, strict=True)]
    largest = max(map(abs, difference)) or 1.0
    gain = (high - low) / largest
    return (
        ("u", f"the pair’s first input, of {name}", data_uri(_pixels(u, shape, low, high))),
        ("v", f"the pair’s second input, of {name}", data_uri(_pixels(v, shape, low, high))),
        (
            f"v − u, ×{three_digits(gain)}",
            f"their difference, of {name}, enlarged {three_digits(gain)} times: blue less, orange more",
            data_uri(_difference_pixels(difference, shape, largest)),
        ),
    )


def _span(u: Sequence[float], v: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    """An interval of positive length: the one given, or else that of the pixels."""
    if low is None or high is None or low >= high:
        low, high = min(*u, *v), max(*u, *v)
    return (low, high) if high > low else (low, low + 1)


def _pixels(x: Sequence[float], shape: ImageShape, low: float, high: float) -> Pixels:
    plane = shape.height * shape.width

    def level(channel: int, place: int) -> int:
        value = x[(channel % shape.channels) * plane + place]
        return round(255 * min(1.0, max(0.0, (value - low) / (high - low))))

    return _rows([(level(0, place), level(1, place), level(2, place)) for place in range(plane)], shape)


def _difference_pixels(difference: Sequence[float], shape: ImageShape, largest: float) -> Pixels:
    """Blue where v is less than u, orange where it is more, white where they agree; channels are averaged."""
    plane = shape.height * shape.width

    def color(place: int) -> tuple[int, int, int]:
        mean = sum(difference[channel * plane + place] for channel in range(shape.channels)) / shape.channels
        value = mean / largest
        end = _MORE if value > 0 else _LESS
        red, green, blue = (round(p + (e - p) * min(1.0, abs(value))) for p, e in zip(_SAME, end, strict=True))
        return red, green, blue

    return _rows([color(place) for place in range(plane)], shape)


def _rows(pixels: Sequence[tuple[int, int, int]], shape: ImageShape) -> Pixels:
    return [list(pixels[start : start + shape.width]) for start in range(0, len(pixels), shape.width)]
