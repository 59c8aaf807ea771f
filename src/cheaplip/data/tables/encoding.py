"""From the columns of a table to inputs, with scikit-learn's imputer and encoder; all they learn is written as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from cheaplip.data.tables.columns import Column

__all__ = ["ColumnEncoding", "TableEncoding"]

_MISSING = "missing"


@dataclass(frozen=True)
class ColumnEncoding:
    """What a column becomes: one feature, or one for each category.

    Attributes:
        name: the column's name.
        median: of the training rows' numbers, which stands for missing ones; None for categories.
        categories: the categories; a missing value is a category, too. None for numbers.
    """

    name: str
    median: float | None = None
    categories: tuple[str, ...] | None = None

    def encode(self, column: Column) -> NDArray[np.float64]:
        """Encode a column: (N, 1), or (N, categories) of 0 and 1; an unknown category is 0 everywhere."""
        if self.categories is None:
            numbers = np.array([[np.nan if value is None else value] for value in column.values], dtype=np.float64)
            return np.asarray(SimpleImputer(strategy="constant", fill_value=self.median).fit_transform(numbers))
        texts = np.array([[_MISSING if value is None else str(value)] for value in column.values], dtype=object)
        encoder = OneHotEncoder(categories=[list(self.categories)], handle_unknown="ignore", sparse_output=False)
        return np.asarray(encoder.fit(texts[:1]).transform(texts), dtype=np.float64)


@dataclass(frozen=True)
class TableEncoding:
    """What the columns of a table become.

    Attributes:
        columns: what each of them becomes.
    """

    columns: tuple[ColumnEncoding, ...]

    @classmethod
    def fit(cls, columns: Sequence[Column], rows: NDArray[np.int64]) -> "TableEncoding":
        """Learn an encoding.

        Args:
            columns: the columns; categories are those of all rows.
            rows: the training rows, from which medians are taken.
        """
        return cls(tuple(_fit(column, rows) for column in columns))

    @classmethod
    def from_json(cls, content: Sequence[dict[str, Any]]) -> "TableEncoding":
        """Read an encoding back from :meth:`to_json`."""
        return cls(
            tuple(
                ColumnEncoding(
                    entry["name"],
                    entry["median"],
                    None if entry["categories"] is None else tuple(entry["categories"]),
                )
                for entry in content
            )
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Write the encoding as a list with an object for each column."""
        return [
            {**asdict(column), "categories": None if column.categories is None else list(column.categories)}
            for column in self.columns
        ]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features: a column's name, or for categories ``column = category``."""
        return tuple(
            name
            for column in self.columns
            for name in (
                (column.name,)
                if column.categories is None
                else tuple(f"{column.name} = {category}" for category in column.categories)
            )
        )

    @property
    def numeric(self) -> NDArray[np.bool_]:
        """Which features are numbers, not categories."""
        return np.array(
            [column.categories is None for column in self.columns for _ in (column.categories or (None,))],
            dtype=bool,
        )

    @property
    def categorical(self) -> tuple[str, ...]:
        """The names of the columns that hold categories."""
        return tuple(column.name for column in self.columns if column.categories is not None)

    def encode(self, columns: Sequence[Column]) -> NDArray[np.float64]:
        """Encode columns, in the order of this encoding, as inputs (N, features), float64."""
        count = len(columns[0].values) if columns else 0
        parts = [encoding.encode(column) for encoding, column in zip(self.columns, columns, strict=True)]
        return np.concatenate(parts, axis=1) if parts else np.zeros((count, 0))


def _fit(column: Column, rows: NDArray[np.int64]) -> ColumnEncoding:
    if column.categories:
        present = {_MISSING if value is None else str(value) for value in column.values}
        return ColumnEncoding(column.name, categories=tuple(sorted(present)))
    numbers = np.array([[np.nan if value is None else value] for value in column.values], dtype=np.float64)
    training = numbers[rows]
    known = training if np.isfinite(training).any() else numbers
    imputer = SimpleImputer(strategy="median").fit(np.where(np.isfinite(known), known, np.nan))
    return ColumnEncoding(column.name, median=float(imputer.statistics_[0]))
