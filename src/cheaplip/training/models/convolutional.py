"""Convolutional networks of the literature on robustness: ``cnn``, ``2c2f`` and ``4c3f``."""

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from cheaplip.errors import ModelError

__all__ = ["LEAST_PIXELS", "check_images", "four_and_three", "madry", "two_and_two"]

LEAST_PIXELS = 4
"""Smallest height and width of an image: each network halves both twice."""


def check_images(spec: str, shape: tuple[int, ...]) -> None:
    """Raise a :class:`ModelError` unless inputs are images (C, H, W) that can be halved twice."""
    if len(shape) != 3 or min(shape[1:]) < LEAST_PIXELS:
        raise ModelError(
            f"model {spec!r}: expected images (C, H, W) of at least {LEAST_PIXELS} by {LEAST_PIXELS} pixels, got "
            f"inputs of shape {shape}"
        )


def madry(shape: tuple[int, ...], outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Make the small network of Madry et al. 2018: two convolutions with max pooling, two linear layers.

    Args:
        shape: (C, H, W), see :func:`check_images`.
        outputs: number of outputs.
        activation: makes an activation.
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        activation(),
        nn.MaxPool2d(2),
        *_head(64 * (height // 4) * (width // 4), (1024,), outputs, activation),
    )


def two_and_two(shape: tuple[int, ...], outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Make ``2c2f``, the small network of Wong and Kolter 2018: two strided convolutions, two linear layers.

    Args:
        shape, outputs, activation: as in :func:`madry`.
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        activation(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        activation(),
        *_head(32 * (height // 4) * (width // 4), (100,), outputs, activation),
    )


def four_and_three(shape: tuple[int, ...], outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Make ``4c3f``, the large network of Wong et al. 2018: four convolutions, two strided, three linear layers.

    Args:
        shape, outputs, activation: as in :func:`madry`.
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        activation(),
        nn.Conv2d(32, 32, 4, stride=2, padding=1),
        activation(),
        nn.Conv2d(32, 64, 3, padding=1),
        activation(),
        nn.Conv2d(64, 64, 4, stride=2, padding=1),
        activation(),
        *_head(64 * (height // 4) * (width // 4), (512, 512), outputs, activation),
    )


def _head(size: int, widths: tuple[int, ...], outputs: int, activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """The linear layers at the end."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((size, *widths)):
        layers += [nn.Linear(before, after), activation()]
    return [*layers, nn.Linear(widths[-1], outputs)]
