"""``ReadingOptions``: the options of a run that say how its data are read."""

from dataclasses import dataclass

from cheaplip.data.reading import Reading
from cheaplip.errors import ConfigError, DataError

__all__ = ["ReadingOptions"]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How data are read; everything that is unset is found out, and told before the training starts."""

    drop: str | None = None
    """columns of a table to leave out, separated by commas"""
    missing: str | None = None
    """codes that stand for a missing value in a table, separated by commas, such as k.A.,-99; empty cells, NA, nan and
    the like need none"""
    separator: str | None = None
    """the character between the cells of a text file, or its name: comma, semicolon, tab, pipe, blank"""
    decimal: str | None = None
    """the character before the decimals of a table: , or ."""
    encoding: str | None = None
    """the encoding of a text file, such as utf-8 or latin-1"""
    range: str | None = None
    """the smallest and the largest value of the inputs, such as 0,255; they are read as 0 and 1"""
    resize: str | None = None
    """the size that the images of a folder are brought to, such as 32, or 28x32 for height and width"""

    @property
    def reading(self) -> Reading:
        """These options in their parsed form.

        Raises:
            ConfigError: one of them has the wrong form.
        """
        for name in ("drop", "missing", "separator", "encoding", "decimal", "range", "resize"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigError(f"{name}: expected text, got {value!r}")
        try:
            return Reading.parse(
                drop=self.drop,
                missing=self.missing,
                separator=self.separator,
                encoding=self.encoding,
                decimal=self.decimal,
                bounds=self.range,
                resize=self.resize,
            )
        except DataError as error:
            raise ConfigError(str(error)) from error
