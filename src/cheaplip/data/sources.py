"""``load``: find data by name (a built-in set, a file, a folder of images, a function), read, check and split it."""

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
from cheaplip.data.arrays import RawData, read_npz
from cheaplip.data.dataset import Data, Split, TaskName, check_data, make_data
from cheaplip.data.images import read_images
from cheaplip.data.importing import current_folder_importable, import_object
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
    """Load data by name, check it, and split it into three parts.

    A classification is split so that every part has the same proportion of each class, a regression at random.

    The domain is [0, 1] for bytes (which are divided by 255) and for data whose values all lie in [0, 1]. Otherwise
    it reaches, for each feature, from the smallest to the largest value in *all* parts, so that attacks can reach
    every input. A constant feature gets half a unit on either side.

    Args:
        source: the name of the data, one of

            - ``digits``, which ships with scikit-learn;
            - ``mnist`` or ``fashion-mnist``, see :func:`cheaplip.data.idx.images_and_labels`;
            - a ``.npz`` file with arrays x and y;
            - a ``.csv`` file whose first line names the columns;
            - a folder that holds a folder of images for each class;
            - ``package.module:function``, a function without arguments that returns (x, y) or a :class:`Data`; the
              current folder is importable.

            Classes are 0, 1, …, classes − 1; in a ``.csv`` file they may be any texts or numbers, which are sorted and
            numbered. For regression y holds finite numbers, (N,) or (N, k).
        label: the column of a ``.csv`` file that holds the classes, or the numbers to predict.
        task: ``classification`` or ``regression``.
        scaling: ``standard`` subtracts each feature's mean and divides by its standard deviation, both taken from the
            training part; distances are then in standard deviations. ``none`` leaves features as they are. None
            (unset) is ``standard`` for a ``.csv`` file with values outside [0, 1] and more than one feature, because
            its columns may have any units, and ``none`` for everything else.
        split_seed: seed of the split, from 0 to 2³² − 1.
        validation: size of the validation part as a fraction of all samples, in (0, 1). None: 0.1. For ``mnist`` and
            ``fashion-mnist`` it is a fraction of the training set; None: 1/12, which is 5,000 images.
        test: size of the test part as a fraction of all samples, in (0, 1). ``mnist`` and ``fashion-mnist`` have a
            test set of their own.

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
        return check_data(found, source, task)
    x, domain = checks.check_inputs(found.x, source)
    check_labels = checks.check_numbers if numbers else checks.check_classes
    y = check_labels(found.y, len(x), source)
    train, test_part, held_out = split(y, source, (test, validation), split_seed)
    standardisation = None
    per_feature = domain.low.numel() > 1  # the box is [0, 1], or there is one feature, whose unit does not matter
    if scaling == "standard" or (scaling is None and _has_suffix(source, ".csv") and per_feature):
        standardisation = Standardisation(x[train])
        x = standardisation(x)
        domain = checks.bounding_box(x)
    else:
        warn_of_uneven_features(x, source)
    parts = (Split(x[rows], y[rows]) for rows in (train, held_out, test_part))
    data = make_data(Path(source).resolve().name, *parts, classes=0 if numbers else int(y.max()) + 1, domain=domain)
    return replace(data, class_names=found.classes, feature_names=found.features, standardisation=standardisation)


def _refuse_scaling(scaling: Scaling | None, source: str) -> None:
    if scaling == "standard":
        raise DataError(f"scaling: {source} comes with a scale and a box of its own, got standard: leave it out")


def _official(name: str, validation: float, seed: int) -> Data:
    """Load MNIST or Fashion-MNIST, which have a test set of their own."""
    (x, y), (test_x, test_y) = (_images(*idx.images_and_labels(name, part)) for part in ("train", "t10k"))
    train, held_out = split(y, name, (validation,), seed)
    parts = (Split(x[train], y[train]), Split(x[held_out], y[held_out]), Split(test_x, test_y))
    return make_data(name, *parts, classes=idx.CLASSES, domain=Box(0.0, 1.0))


def _images(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    return checks.bytes_to_unit_interval(x[:, None]), torch.from_numpy(y.astype(np.int64))


def _read(source: str, label: str | None, task: str) -> RawData | Data:
    """Read a source with the reader of its format; a function may also return a whole data set."""
    if source == "digits":
        digits = load_digits()
        return RawData(digits.images[:, None] / 16, digits.target)
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
        return RawData(found[0], found[1])
    close = difflib.get_close_matches(source.lower(), _BUILT_IN, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(
        f"unknown data {source!r}: expected {', '.join(_BUILT_IN)}, a .npz or .csv file, "
        f"a folder of images by class, or package.module:function{hint}"
    )


def _call(source: str) -> object:
    """Call ``package.module:function``, and return what it returns."""
    function = import_object(
        source, DataError, "package.module:function, installed or importable from the current folder"
    )
    try:
        with current_folder_importable():
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
