"""From what a reader returns to a data set: checked, encoded, split, scaled and described; or as a recipe says."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cheaplip.data import checks, ranges
from cheaplip.data.arrays import PARTS, RawData
from cheaplip.data.dataset import Data, Split, make_data
from cheaplip.data.description import describe, describe_inputs, describe_labels
from cheaplip.data.recipe import Recipe, row_digests, scaler_of, scaling_json, warn_of_change
from cheaplip.data.scaling import Rescaling, Scaler, Scaling, Standardisation, spread_out, warn_of_uneven_features
from cheaplip.data.splits import split
from cheaplip.data.tables.columns import Column
from cheaplip.data.tables.encoding import TableEncoding
from cheaplip.data.tables.numbers import parse_number
from cheaplip.domain import Box
from cheaplip.errors import CheaplipWarning, DataError

__all__ = ["Choices", "prepare"]

_CHUNK = 4096  # rows scaled at a time


@dataclass(frozen=True)
class Choices:
    """What a user may choose about a data set that is in one source.

    Attributes:
        numbers: whether labels are numbers to predict.
        scaling: of the features. None: it suits the source.
        bounds: the range of values that is read as 0 to 1. None: it suits the source.
        validation, test: sizes of these parts, as fractions of all rows.
        seed: of the split.
        made: whether a function made the inputs, so that their form is the user's own.
    """

    numbers: bool
    scaling: Scaling | None
    bounds: tuple[float, float] | None
    validation: float
    test: float
    seed: int
    made: bool


def prepare(raw: RawData, source: str, choices: Choices, recipe: Recipe | None) -> Data:
    """Make a data set.

    Args:
        raw: what the reader found.
        source: where it comes from, for messages.
        choices: what the user chose; with a recipe they were made before.
        recipe: how a run reads the source. None: all is found out.

    Raises:
        DataError: inputs or labels cannot be used, or they are not those of the recipe.
    """
    columns = raw.columns
    x = checks.check_array(raw.x, source) if columns is None else np.zeros((len(raw.y), 0))
    if recipe is None:
        _refuse_unusable(x, raw, source)
    y = _labels(raw, len(x), source, choices, recipe)
    parts, how = (None, "as before") if recipe is not None else _split(raw, y, source, choices)
    encoding, notes = None if recipe is None else recipe.encoding, list(raw.notes)
    if columns is not None:
        if encoding is None:
            assert parts is not None
            encoding = TableEncoding.fit(columns, parts[0].numpy())
        notes += _missing(columns)
        x = encoding.encode(columns)
    digests = row_digests(x, y.numpy())
    if recipe is not None:
        if choices.made and len(digests) == sum(recipe.parts) and not recipe.holds(digests):
            warn_of_change(source)  # a function makes its rows anew, and may make them differently
            parts, _ = _split(raw, y, source, choices)
            recipe = replace(recipe, box=None).with_rows(digests, parts)
        else:
            parts = recipe.find_rows(digests, source)
    assert parts is not None
    kind, scaler = _scaler(x, parts[0], source, choices, recipe, encoding, raw.pixels)
    scaled = torch.from_numpy(x.astype(np.float32)) if scaler is None else _apply(scaler, x)
    label_scaler = _label_scaler(raw, y, parts[0], choices, recipe)
    targets = y if label_scaler is None else label_scaler(_as_numbers(raw, y))
    features = () if encoding is None else encoding.features
    domain = (None if recipe is None else recipe.domain) or (
        Box(0.0, 1.0) if kind == "range" else checks.bounding_box(scaled[torch.cat(parts)])
    )
    splits = [Split(scaled[rows], targets[rows]) for rows in parts]
    name = Path(source).resolve().name
    data = make_data(name, *splits, classes=0 if choices.numbers else int(y.max()) + 1, domain=domain)
    if kind == "none" and recipe is None:
        warn_of_uneven_features(scaled, source, features)
        ranges.warn_of_rounding(x, features, source)
    if recipe is not None:
        return _as_recipe_says(data, recipe, kind, scaler, label_scaler)
    if choices.made and kind == "none" and encoding is None and ranges.looks_like_images(x):
        notes.append(f"values up to {float(x.max()):g}, which --range 0,255 would read as 0 to 1")
    if raw.parts is not None:
        _warn_of_shared(digests, parts, source)
    described = describe(_describe(x, kind, scaler, encoding), describe_labels(y, raw.classes), notes, parts, how)
    recipe = Recipe(
        source=name,
        sha256="",
        description=described,
        classes=raw.classes,
        features=features,
        columns=None if encoding is None else encoding.to_json(),
        scaling=None if scaler is None else scaling_json(kind, scaler),
        labels=None if label_scaler is None else scaling_json("standard", label_scaler),
        box={"low": domain.low.tolist(), "high": domain.high.tolist()},
        radii={"epsilon": data.epsilon, "noise": data.noise},
    ).with_rows(digests, parts)
    return _as_recipe_says(data, recipe, kind, scaler, label_scaler)


def _as_recipe_says(data: Data, recipe: Recipe, kind: str, scaler: Scaler | None, label_scaler: Scaler | None) -> Data:
    encoding, radii = recipe.encoding, recipe.radii or {"epsilon": data.epsilon, "noise": data.noise}
    if not all(data.domain.contains(part.x) for part in (data.train, data.validation, data.test)):
        raise DataError("data.json: expected a box that holds every input of the run, got a smaller one; train again")
    return replace(
        data,
        epsilon=radii["epsilon"],
        noise=radii["noise"],
        classes=len(recipe.classes) or data.classes,
        class_names=recipe.classes,
        feature_names=recipe.features,
        standardisation=scaler if kind == "standard" else None,
        rescaling=scaler if kind == "range" else None,
        label_scaling=label_scaler,
        categorical=() if encoding is None else encoding.categorical,
        recipe=recipe,
    )


def _labels(raw: RawData, count: int, source: str, choices: Choices, recipe: Recipe | None) -> Tensor:
    if choices.numbers:
        if recipe is not None and raw.columns is not None:
            return torch.from_numpy(np.asarray(raw.y, dtype=np.float32)[:, None])
        return checks.check_numbers(raw.y, count, source)
    if recipe is not None and np.shape(raw.y) == (count,):
        return torch.from_numpy(np.asarray(raw.y).astype(np.int64))
    return checks.check_classes(raw.y, count, source, raw.classes)


def _split(raw: RawData, y: Tensor, source: str, choices: Choices) -> tuple[list[Tensor], str]:
    """Return the rows of the training, the validation and the test part, and how they were chosen."""
    drawn = f"drawn at random with seed {choices.seed}" + ("" if choices.numbers else ", in proportion to the classes")
    if raw.parts is None:
        fractions = (choices.test, choices.validation)
        numbers = bool(raw.classes) and not raw.pixels and all(parse_number(name) is not None for name in raw.classes)
        train, test, held_out = split(y, source, fractions, choices.seed, names=raw.classes, numbers=numbers)
        return [train, held_out, test], drawn
    given = [torch.from_numpy(np.flatnonzero(raw.parts == part)) for part in range(len(PARTS))]
    how = "as the source gives them"
    if not len(given[2]):
        given = [given[0], given[2], given[1]]  # what was held out is what nothing is chosen on
        how = "the source's validation part is the test"
    if not len(given[1]):
        rest, part = split(y[given[0]], source, (choices.validation,), choices.seed, names=raw.classes)
        given[:2] = given[0][rest], given[0][part]
        how += f"; validation {drawn}"
    return given, how


def _scaler(
    x: NDArray[Any],
    train: Tensor,
    source: str,
    choices: Choices,
    recipe: Recipe | None,
    encoding: TableEncoding | None,
    pixels: bool,
) -> tuple[str, Scaler | None]:
    """Return how inputs are scaled (``standard``, ``range``, ``none``), and by what."""
    if recipe is not None:
        return ("none", None) if recipe.scaling is None else (recipe.scaling["kind"], scaler_of(recipe.scaling))
    if choices.bounds is not None:
        if choices.scaling == "standard":
            raise DataError("scaling: expected none with --range, got standard: use one of them")
        ranges.refuse_outside(x, choices.bounds, source)
        return "range", Rescaling(*choices.bounds)
    standard = choices.scaling == "standard"
    numeric = np.ones(x.shape[1:], dtype=bool) if encoding is None else encoding.numeric
    if choices.scaling is None and encoding is not None:
        numbers = x[:, numeric]
        outside = numbers.size > 0 and (numbers.min() < 0 or numbers.max() > 1)
        # A single number's unit does not matter, unless it is lost.
        standard = (outside and x.shape[1] > 1) or spread_out(numbers) or bool(ranges.lossy(numbers).any())
    if standard:
        return "standard", Standardisation(_exact(x[train.numpy()]), torch.from_numpy(numeric))
    images = not choices.made or x.dtype == np.uint8
    found = ranges.find_range(x, pixels=pixels) if encoding is None and images else None
    return ("none", None) if found is None else ("range", Rescaling(*found))


def _label_scaler(raw: RawData, y: Tensor, train: Tensor, choices: Choices, recipe: Recipe | None) -> Scaler | None:
    """Return by what several numbers to predict are scaled, as their units may be unlike; a single one is not."""
    if recipe is not None:
        return None if recipe.labels is None else scaler_of(recipe.labels)
    if not choices.numbers or y.shape[1] == 1:
        return None
    return Standardisation(_as_numbers(raw, y)[train])


def _as_numbers(raw: RawData, y: Tensor) -> Tensor:
    """The numbers to predict, (N, k), in float64, from which a mean can be subtracted without loss."""
    return torch.from_numpy(np.asarray(raw.y, dtype=np.float64)).reshape(y.shape)


def _describe(x: NDArray[Any], kind: str, scaler: Scaler | None, encoding: TableEncoding | None) -> str:
    bounds = None
    if scaler is not None and kind == "range":
        low = float(scaler.mean)
        bounds = low, low + float(scaler.deviation)
    return describe_inputs(x, standard=kind == "standard", bounds=bounds, encoding=encoding)


def _apply(scaler: Scaler, x: NDArray[Any]) -> Tensor:
    with torch.no_grad():
        return torch.cat([scaler(_exact(x[start : start + _CHUNK])) for start in range(0, len(x), _CHUNK)])


def _exact(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(x.astype(np.float64))


def _refuse_unusable(x: NDArray[Any], raw: RawData, source: str) -> None:
    """Raise a :class:`DataError` where there is nothing to learn from, or a number that is not finite in float32."""
    columns, numbers = raw.columns, x
    if columns is not None:
        if not len(x):
            raise DataError(f"{source}: expected rows below the names of the columns, got none")
        if not columns:
            out = "; ".join(note for note in raw.notes if "left out" in note)
            raise DataError(
                f"{source}: expected a column beside the label's, but no column is left to learn from"
                f"{f' ({out})' if out else ''}"
            )
        zero = [0.0] * len(x)
        values = [zero if column.categories else [value or 0.0 for value in column.values] for column in columns]
        numbers = np.array(values, dtype=np.float64).T

    def place(row: int, *column: int) -> str:
        where = checks.row_and_column(row, *column) if raw.place is None else raw.place(row).removeprefix(f"{source}, ")
        return where if columns is None else f"{where}, column {columns[column[0]].name!r}"

    if numbers.dtype.kind in "biu":
        return
    with np.errstate(over="ignore"):
        checks.refuse_non_finite(numbers.astype(np.float32), source, place, _remedy(numbers))


def _remedy(x: NDArray[Any]) -> str:
    """Return what to do about numbers that are not finite."""
    if np.isnan(x).any():
        return (
            "fill them in, such as with medians, x = np.where(np.isnan(x), np.nanmedian(x, axis=0), x), or drop the "
            "rows; empty cells of a .csv file are filled in so"
        )
    return "they are infinite, or too large for float32: correct them, or drop the rows"


def _missing(columns: Sequence[Column]) -> list[str]:
    """Return notes about missing values."""
    notes = []
    for categories, what in (
        (False, "missing numbers replaced by the training rows' median"),
        (True, "missing texts taken for a category of their own"),
    ):
        counts = {column.name: column.values.count(None) for column in columns if column.categories == categories}
        if total := sum(counts.values()):
            listed = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            notes.append(f"{total} {what} ({listed})")
    return notes


def _warn_of_shared(digests: list[str], parts: list[Tensor], source: str) -> None:
    """Warn of test rows that are training rows, too, in a split that the source gives."""
    train = {digests[row] for row in parts[0].tolist()}
    if shared := sum(digests[row] in train for row in parts[2].tolist()):
        warnings.warn(
            f"{source}: {shared} of the {len(parts[2])} test inputs are training inputs, too; figures of the test part "
            "are then too good: remove them from one of the parts",
            CheaplipWarning,
            stacklevel=4,
        )
