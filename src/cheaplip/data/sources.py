"""Data by name: built-in sets, files, folders of images, functions; read, checked, split and described."""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from cheaplip.data import checks, idx
from cheaplip.data.arrays import Raw, read_npz
from cheaplip.data.dataset import Data, Split, TaskName, check, describe
from cheaplip.data.images import read_images
from cheaplip.data.importing import folder_importable, resolve
from cheaplip.data.scaling import Scaling, Standardisation, warn_of_uneven_features
from cheaplip.data.splits import split
from cheaplip.data.table import read_csv
from cheaplip.domain import Box
from cheaplip.errors import DataError

__all__ = ["load"]

_BUILT_IN = ("digits", *idx.NAMES)


def load(
    source: str,
    *,
    label: str | None = None,
    task: str = "classification",
    scaling: Scaling | None = None,
    split_seed: int = 0,
    validation: float | None = None,
    test: float = 0.2,
) -> Data:
    """Load data by name, check it, and split it: by class in proportion, or for regression at random.

    The domain is [0, 1] for bytes (divided by 255) and wherever every value lies within; otherwise each feature spans
    its smallest to its largest value in *all* parts, for attacks must be able to reach every input. A constant
    feature gets a half on either side.

    Args:
        source: ``digits`` (ships with scikit-learn), ``mnist`` or ``fashion-mnist`` (see
            :func:`cheaplip.data.idx.images_and_labels`), a ``.npz`` file with arrays x and y, a ``.csv`` file
            whose first line names the columns, a folder with a folder of images for each class, or
            ``package.module:function``, a function without arguments that returns (x, y) or a :class:`Data`; the
            current folder is importable. Labels are 0, 1, …, classes − 1, but in a ``.csv`` file anything: its sorted
            values are numbered. For regression y holds finite numbers, (N,) or (N, k).
        label: the column of a ``.csv`` file that holds the classes, or the numbers.
        task: ``classification`` or ``regression``.
        scaling: ``standard``: each feature less its mean, over its standard deviation, both of the training part, so
            that distances are in standard deviations; ``none``: features as they come. None: ``standard`` for a
            ``.csv`` file with values outside [0, 1], whose columns may have any units, otherwise ``none``.
        split_seed: the same seed gives the same split.
        validation: fraction of all samples, in (0, 1). None: 0.1. For ``mnist`` and ``fashion-mnist`` it is a
            fraction of the training set, None: 1/12, which is 5,000 images.
        test: fraction of all samples, in (0, 1). ``mnist`` and ``fashion-mnist`` keep their own test set.

    Raises:
        DataError: the source is unknown, missing or damaged, its content cannot be used, or an option is out of range.

    Example:
        >>> data = load("digits")
        >>> data.shape, data.classes, len(data.train.x), len(data.validation.x), len(data.test.x)
        ((1, 8, 8), 10, 1258, 180, 359)
    """
    if validation is None:
        validation = 1 / 12 if source in idx.NAMES else 0.1
    _check_options(validation, test, split_seed)
    if label is not None and not _has_suffix(source, ".csv"):
        raise DataError(f"label={label!r}: expected only with a .csv file, got {source!r}; leave it out")
    if task not in get_args(TaskName):
        raise DataError(f"task: expected one of {', '.join(get_args(TaskName))}, got {task!r}")
    if scaling is not None and scaling not in get_args(Scaling):
        raise DataError(f"scaling: expected one of {', '.join(get_args(Scaling))}, got {scaling!r}")
    numbers = task == "regression"
    if numbers and (source in _BUILT_IN or Path(source).is_dir()):
        raise DataError(f"{source} holds classes, not numbers: leave --task regression out, or name other data")
    if source in idx.NAMES:
        _refuse_scaling(scaling, source)
        return _official(source, validation, split_seed)
    found = _read(source, label, task)
    if isinstance(found, Data):
        _refuse_scaling(scaling, source)
        return check(found, source, task)
    x, domain = checks.inputs(found.x, source)
    y = checks.numbers(found.y, len(x), source) if numbers else checks.labels(found.y, len(x), source)
    train, test_part, held_out = split(y, source, (test, validation), split_seed)
    scaled = None
    if scaling == "standard" or (scaling is None and _has_suffix(source, ".csv") and domain.low.numel() > 1):
        scaled = Standardisation(x[train])
        x = scaled(x)
        domain = checks.box(x)
    else:
        warn_of_uneven_features(x, source)
    parts = (Split(x[rows], y[rows]) for rows in (train, held_out, test_part))
    data = describe(Path(source).resolve().name, *parts, classes=0 if numbers else int(y.max()) + 1, domain=domain)
    return replace(data, class_names=found.classes, feature_names=found.features, scaling=scaled)


def _refuse_scaling(scaling: Scaling | None, source: str) -> None:
    if scaling == "standard":
        raise DataError(f"scaling: {source} has its scale and its box already, got standard: leave it out")


def _official(name: str, validation: float, seed: int) -> Data:
    """A set that comes with its own test part."""
    (x, y), (test_x, test_y) = (_images(*idx.images_and_labels(name, part)) for part in ("train", "t10k"))
    train, held_out = split(y, name, (validation,), seed)
    parts = (Split(x[train], y[train]), Split(x[held_out], y[held_out]), Split(test_x, test_y))
    return describe(name, *parts, classes=idx.CLASSES, domain=Box(0.0, 1.0))


def _images(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    return checks.scaled_bytes(x[:, None]), torch.from_numpy(y.astype(np.int64))


def _read(source: str, label: str | None, task: str) -> Raw | Data:
    """Inputs and labels as they come, unchecked, or whole data from a function."""
    if source == "digits":
        digits = load_digits()
        return Raw(digits.images[:, None] / 16, digits.target)
    if _has_suffix(source, ".npz"):
        return read_npz(_existing(source))
    if _has_suffix(source, ".csv"):
        return read_csv(_existing(source), label, task=task)
    if Path(source).is_dir():
        return read_images(Path(source))
    if ":" in source:
        found = _call(source)
        if isinstance(found, Data):
            return found
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise DataError(f"{source}: expected the function to return (x, y) or a Data, got {type(found).__name__}")
        return Raw(found[0], found[1])
    close = difflib.get_close_matches(source.lower(), _BUILT_IN, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(
        f"unknown data {source!r}: expected {', '.join(_BUILT_IN)}, a .npz or .csv file, "
        f"a folder of images by class, or package.module:function{hint}"
    )


def _call(source: str) -> object:
    """What ``package.module:function`` returns."""
    function = resolve(source, DataError, "package.module:function, installed or importable from the current folder")
    try:
        with folder_importable():
            return function()
    except Exception as error:  # whatever a user's function raises
        raise DataError(f"{source} raised {type(error).__name__}: {error}; it is called without arguments") from error


def _has_suffix(source: str, suffix: str) -> bool:
    return source.lower().endswith(suffix)


def _existing(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such file; check the path, which starts at {Path.cwd()}")
    return path


def _check_options(validation: float, test: float, split_seed: int) -> None:
    for name, fraction in (("validation", validation), ("test", test)):
        if not 0 < fraction < 1:
            raise DataError(f"{name}: expected a fraction in (0, 1), got {fraction}")
    if validation + test >= 1:
        raise DataError(
            f"validation + test: expected less than 1, to leave some for training, got {validation + test:g}"
        )
    if not 0 <= split_seed < 2**32:
        raise DataError(f"split_seed: expected an integer from 0 to 2**32 - 1, got {split_seed}")
