"""``Official``: what the reader of a named data set returns."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Official", "Part"]


class Part(NamedTuple):
    """Images ``x`` (N, C, H, W) and their classes ``y`` (N,), both bytes."""

    x: NDArray[np.uint8]
    y: NDArray[np.uint8]


class Official(NamedTuple):
    """The parts of a data set as its authors give them.

    Attributes:
        train, test: the parts.
        validation: the part to choose by. None: the authors give none, and it is to be split off the training part.
        classes: number of classes.
        class_names: their names; empty where a number says as much.
        share: the default size of the validation part, as a fraction of the training part.
        notes: what a reader of results should know of the files.
    """

    train: Part
    test: Part
    validation: Part | None = None
    classes: int = 10
    class_names: tuple[str, ...] = ()
    share: float = 0.1
    notes: tuple[str, ...] = ()
