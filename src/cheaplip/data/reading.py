"""``Reading``: what a user says about how a source is to be read; everything that is unset is found out."""

import re
from dataclasses import dataclass

from cheaplip.errors import DataError

__all__ = ["Reading", "parse_range", "parse_size"]


@dataclass(frozen=True)
class Reading:
    """How a source is to be read.

    Attributes:
        dropped: columns of a table that are left out.
        missing: codes that stand for a missing value in a table, beside the usual ones.
        separator, encoding, decimal: of a text file: the character between cells, the encoding, ``","`` or ``"."``.
        bounds: the smallest and the largest value that inputs can have, read as 0 and 1.
        size: the height and the width to which images are resized.
    """

    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    bounds: tuple[float, float] | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def parse(
        cls,
        *,
        drop: str | None = None,
        missing: str | None = None,
        separator: str | None = None,
        encoding: str | None = None,
        decimal: str | None = None,
        bounds: str | None = None,
        resize: str | None = None,
    ) -> "Reading":
        """Make one from texts, as the command line gives them.

        Raises:
            DataError: a text has the wrong form.
        """
        if decimal not in (None, ",", "."):
            raise DataError(f"decimal: expected , or ., got {decimal!r}")
        codes = () if missing is None else tuple(dict.fromkeys(code.strip() for code in missing.split(",")))
        if "" in codes:
            raise DataError(
                f"missing: expected codes between commas, such as k.A.,-99, got {missing!r}; empty cells are "
                "missing anyway"
            )
        return cls(
            dropped=tuple(name.strip() for name in drop.split(",")) if drop is not None else (),
            missing=codes,
            separator=separator,
            encoding=encoding,
            decimal=decimal,
            bounds=None if bounds is None else parse_range(bounds),
            size=None if resize is None else parse_size(resize),
        )


def parse_range(text: str) -> tuple[float, float]:
    """Parse the smallest and the largest value, such as ``0,255``.

    Raises:
        DataError: it has another form.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = 0.0
    if not -float("inf") < low < high < float("inf"):
        raise DataError(f"range: expected the smallest and the largest value, such as 0,255, got {text!r}")
    return low, high


def parse_size(text: str) -> tuple[int, int]:
    """Parse the height and the width of images, such as ``32`` for both, or ``28x32``.

    Raises:
        DataError: it has another form.
    """
    if not (found := re.fullmatch(r"0*([1-9]\d{0,4})(?:\s*[x×,]\s*0*([1-9]\d{0,4}))?", text.strip())):
        raise DataError(
            f"resize: expected the pixels of a side, such as 32, or height and width, such as 28x32, got {text!r}"
        )
    return int(found[1]), int(found[2] or found[1])
