"""``Augmentation``: other views of a batch of images, drawn on the device that holds them."""

import torch
from torch import Tensor
from torch.nn import functional

from cheaplip.domain import Domain
from cheaplip.errors import ConfigError

__all__ = ["KINDS", "Augmentation", "parse_augmentation"]

KINDS = ("crop", "flip")
"""What can be asked for: a random crop of the padded image, a horizontal flip with probability one half."""

_PADDING = 8  # the side of an image, in units of the padding: 4 pixels for CIFAR-10


def parse_augmentation(text: str) -> tuple[str, ...]:
    """Return the kinds that a text such as ``crop,flip`` names.

    Raises:
        ConfigError: it names something else, or something twice.
    """
    kinds = tuple(kind.strip() for kind in text.split(","))
    if not set(kinds) <= set(KINDS) or len(set(kinds)) < len(kinds):
        raise ConfigError(f"augment: expected {', '.join(KINDS)} or both, separated by a comma, got {text!r}")
    return kinds


class Augmentation:
    """Replace each image of a batch by another view of it, without waiting for the device.

    ``crop`` pads an image with zeros, an eighth of its side on each side, and cuts a part of its size out at a random
    place; ``flip`` mirrors half of the images. Views stay in the domain. The gradient passes through.

    Args:
        text: the kinds, ``crop``, ``flip`` or ``crop,flip``.
        shape: of one input, (C, H, W).
        domain: where inputs live.
        generator: of the random numbers, on the device of the inputs.

    Raises:
        ConfigError: the kinds are unknown, or the inputs are no images.
    """

    def __init__(self, text: str, shape: tuple[int, ...], domain: Domain, generator: torch.Generator) -> None:
        self.kinds = parse_augmentation(text)
        if len(shape) != 3:
            raise ConfigError(
                f"augment: expected images of shape (channels, height, width), got inputs of shape {shape}: leave it "
                "out, or use other data"
            )
        self.domain = domain
        self.generator = generator
        device = generator.device
        _, height, width = shape
        self._padding = (height // _PADDING, width // _PADDING)
        self._rows = torch.arange(height, device=device)
        self._columns = torch.arange(width, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """Return views of images (B, C, H, W), of the same shape."""
        columns = self._columns.expand(len(x), -1)
        if "flip" in self.kinds:
            mirrored = self._draw(2, len(x)) == 1
            columns = torch.where(mirrored, len(self._columns) - 1 - columns, columns)
        rows = self._rows.expand(len(x), -1)
        if "crop" in self.kinds:
            above, beside = self._padding
            x = functional.pad(x, (beside, beside, above, above))
            rows = rows + self._draw(2 * above + 1, len(x))
            columns = columns + self._draw(2 * beside + 1, len(x))
        image = torch.arange(len(x), device=x.device)
        view = x[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return self.domain.project(view.permute(0, 3, 1, 2).contiguous())

    def _draw(self, below: int, count: int) -> Tensor:
        """Draw whole numbers from 0 to ``below`` − 1, (count, 1)."""
        return torch.randint(below, (count, 1), generator=self.generator, device=self.generator.device)
