"""What every reader returns. Values are checked later, in ``checks.py``."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.tables.columns import Column

__all__ = ["PARTS", "RawData"]

PARTS = ("train", "validation", "test")
"""The parts of a data set, in this order."""


class RawData(NamedTuple):
    """Inputs and labels as a source holds them, before any check.

    Attributes:
        x, y: inputs and labels, arrays or anything that numpy can turn into arrays. A table has no x.
        columns: the columns of a table, which are yet to be encoded. None: not a table.
        classes: names of the classes; empty where the source has none.
        parts: the part that each row is given to, as its place in ``PARTS``. None: the source does not say.
        notes: how the source was read, where that is not the usual way.
        place: from a row to the words for its place in the source. None: its number.
        pixels: whether each input is an image whose values are brightnesses.
    """

    x: Any
    y: Any
    columns: Sequence[Column] | None = None
    classes: tuple[str, ...] = ()
    parts: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    place: Callable[[int], str] | None = None
    pixels: bool = False
