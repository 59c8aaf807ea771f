"""``load``: find data by name (a built-in set, a file, a folder of images, a function) or take a frame, and read it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from sklearn.datasets import load_digits

from cheaplip.data import checks
from cheaplip.data.arrays import RawData
from cheaplip.data.dataset import Data, Split, TaskName, check_data, make_data
from cheaplip.data.description import describe, describe_inputs, describe_labels
from cheaplip.data.images import read_images
from cheaplip.data.importing import current_folder_importable, import_object
from cheaplip.data.named.official import Part
from cheaplip.data.named.reader import LISTED, NAMES, read_named
from cheaplip.data.npz.reader import read_npz
from cheaplip.data.prepare import Choices, prepare
from cheaplip.data.reading import Reading
from cheaplip.data.recipe import Recipe, part_digest, warn_of_change
from cheaplip.data.scaling import Scaling
from cheaplip.data.splits import split
from cheaplip.data.tables.reader import Known, is_frame, read_frame, read_parquet, read_table_file
from cheaplip.domain import Box
from cheaplip.errors import DataError
from cheaplip.suggestion import did_you_mean

__all__ = ["load"]

_BUILT_IN = ("digits", *NAMES)
_TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_TABLES = (*_TEXT, ".parquet")
_FILES = (".npz", *_TABLES)


def load(
    source: Any,
    *,
    label: str | None = None,
    task: str = "classification",
    scaling: Scaling | None = None,
    split_seed: int = 0,
    validation: float | None = None,
    test: float = 0.2,
    reading: Reading | None = None,
    recipe: Recipe | None = None,
) -> Data:
    """Load data by name, check it, and split it into three parts.

    A classification is split so that every part has the same proportion of each class, a regression at random.

    The domain is [0, 1] for images whose values are brightnesses (bytes are divided by 255) and for data whose values
    all lie in [0, 1]. Otherwise it reaches, for each feature, from the smallest to the largest value in *all* parts, so
    that attacks can reach every input. A constant feature gets half a unit on either side.

    Args:
        source: the name of the data, one of

            - ``digits``, which ships with scikit-learn;
            - ``mnist``, ``fashion-mnist`` or ``kmnist``, see :func:`cheaplip.data.named.mnist.images_and_labels`;
            - ``emnist-letters``, see :func:`cheaplip.data.named.mnist.read_emnist_letters`;
            - ``cifar-10``, see :func:`cheaplip.data.named.cifar.read_cifar`;
            - ``pneumoniamnist`` or another two-dimensional set of MedMNIST, see
              :func:`cheaplip.data.named.medmnist.read_medmnist`;
            - a ``.npz`` file with arrays x and y, or others of the usual names, such as x_train, y_train, x_test and
              y_test, which give the split, or an array of labels that ``label`` names;
            - a ``.csv`` or ``.tsv`` file whose first line names the columns, also compressed with gzip; its separator,
              decimal comma and encoding are found. Or a ``.parquet`` file;
            - a folder that holds a folder of images for each class, or such folders below ``train`` and ``test``;
            - ``package.module:function``, a function without arguments that returns (x, y), a data frame or a
              :class:`Data`; the current folder is importable.

            Or, in Python, a data frame of pandas or polars itself.

            Classes are 0, 1, …, classes − 1; in a table they may be any texts or numbers, in a ``.npz`` file any texts
            or whole numbers, which are sorted and numbered; 1 and 1.0 are one class. For regression y holds finite
            numbers, (N,) or (N, k).
        label: the column of a table, or the array of a ``.npz`` file, that holds the classes, or the numbers to
            predict.
        task: ``classification`` or ``regression``.
        scaling: ``standard`` subtracts each feature's mean and divides by its standard deviation, both taken from the
            training part; distances are then in standard deviations. ``none`` leaves features as they are. None
            (unset) is ``standard`` for a table with values outside [0, 1] and more than one feature, or whose columns
            differ much in spread, because its columns may have any units; images are read as 0 to 1; everything else
            is left as it is. Categories, which become features of 0 and 1, are never scaled.
        split_seed: seed of the split, from 0 to 2³² − 1.
        validation: size of the validation part as a fraction of all samples, in (0, 1). None: 0.1. For a set with a
            name, other than ``digits``, it is a fraction of the training set; None: 1/12 for ``mnist``,
            ``fashion-mnist`` and ``kmnist``, otherwise 1/10, which makes 5,000 images of MNIST and of CIFAR-10. The
            sets of MedMNIST have a validation part of their own.
        test: size of the test part as a fraction of all samples, in (0, 1). Sets with a name have a test part of their
            own.
        reading: how the source is to be read: separator, encoding, range of values, size of images, columns to drop,
            codes of missing values.
        recipe: how a run read the data, from its ``data.json``: the same rows, split, classes and scaling are used, and
            rows that are new since are left out.

    Raises:
        DataError: the source is unknown, missing or damaged, its content cannot be used, or an option is out of range.

    Example:
        >>> data = load("digits")
        >>> data.shape, data.classes, len(data.train.x), len(data.validation.x), len(data.test.x)
        ((1, 8, 8), 10, 1258, 180, 359)
    """
    reading = reading or Reading()
    _check_options(0.1 if validation is None else validation, test, split_seed)
    name = source if isinstance(source, str) else "frame"
    if task not in get_args(TaskName):
        raise DataError(f"task: expected one of {', '.join(get_args(TaskName))}, got {task!r}")
    if scaling is not None and scaling not in get_args(Scaling):
        raise DataError(f"scaling: expected one of {', '.join(get_args(Scaling))}, got {scaling!r}")
    _check_options_of_source(source, label, reading)
    numbers = task == "regression"
    if numbers and isinstance(source, str) and (source in _BUILT_IN or Path(source).is_dir()):
        raise DataError(f"{source} holds classes, not numbers: leave --task regression out, or name other data")
    if name in NAMES:
        _refuse_scaling(scaling, name)
        data, how, notes = _official(name, validation, split_seed)
        return _remember(data, recipe, name, how, notes)
    found = _read(source, label, task, reading, recipe)
    if isinstance(found, Data):
        _refuse_scaling(scaling, name)
        return _remember(check_data(found, name, task), recipe, name)
    made = not isinstance(source, str) or _is_function(source)
    choices = Choices(
        numbers, scaling, reading.bounds, 0.1 if validation is None else validation, test, split_seed, made
    )
    return prepare(found, name, choices, recipe)


def _refuse_scaling(scaling: Scaling | None, source: str) -> None:
    if scaling == "standard":
        raise DataError(f"scaling: {source} comes with a scale and a box of its own, got standard: leave it out")


def _official(name: str, validation: float | None, seed: int) -> tuple[Data, str, tuple[str, ...]]:
    """Load a set with a name, which has a test part of its own; return how it is split, and notes, too."""
    found = read_named(name)
    train, test = _images(found.train), _images(found.test)
    if found.validation is not None:
        held_out, how = _images(found.validation), "as the source gives them"
    else:
        rest, part = split(train.y, name, (found.share if validation is None else validation,), seed)
        train, held_out = Split(train.x[rest], train.y[rest]), Split(train.x[part], train.y[part])
        how = f"the test part is the source's; validation drawn from the rest with seed {seed}"
    data = make_data(name, train, held_out, test, classes=found.classes, domain=Box(0.0, 1.0))
    return replace(data, class_names=found.class_names), how, found.notes


def _remember(
    data: Data,
    recipe: Recipe | None,
    source: str,
    how: str = "as the source gives them",
    notes: tuple[str, ...] = (),
) -> Data:
    """Return data that come split and scaled with a recipe, after a comparison with the recipe of a run."""
    parts = (data.train, data.validation, data.test)
    labels = describe_labels(torch.cat([part.y for part in parts]), data.class_names)
    x = torch.cat([part.x for part in parts]).cpu().numpy()
    found = Recipe(
        source=data.name,
        sha256=part_digest([tensor for part in parts for tensor in part]),
        description=describe(describe_inputs(x), labels, notes, [part.y for part in parts], how),
        classes=data.class_names,
        features=data.feature_names,
    )
    if recipe is not None and recipe.sha256 != found.sha256:
        warn_of_change(source)
    return replace(data, recipe=found)


def _images(part: Part) -> Split:
    return Split(checks.bytes_to_unit_interval(part.x), torch.from_numpy(part.y.astype(np.int64)))


def _read(source: Any, label: str | None, task: str, reading: Reading, recipe: Recipe | None) -> RawData | Data:
    """Read a source with the reader of its format; a function may also return a whole data set."""
    encoding = None if recipe is None else recipe.encoding
    known: Known | None = None
    if recipe is not None and encoding is not None:
        known = [column.name for column in encoding.columns], encoding.categorical, recipe.classes
    if not isinstance(source, str):
        return read_frame(source, "frame", label, reading, task=task, known=known)
    if source == "digits":
        digits = load_digits()
        return RawData(digits.images[:, None] / 16, digits.target)
    if _has_suffix(source, ".npz"):
        return read_npz(_existing(source), label, task=task, known=None if recipe is None else recipe.classes)
    if _has_suffix(source, _TEXT):
        return read_table_file(_existing(source), label, reading, task=task, known=known)
    if _has_suffix(source, ".parquet"):
        return read_parquet(_existing(source), label, reading, task=task, known=known)
    if Path(source).is_dir():
        return read_images(Path(source), reading.size, None if recipe is None else recipe.classes)
    found = _call(source)
    if isinstance(found, Data):
        return found
    if is_frame(found):
        return read_frame(found, source, label, reading, task=task, known=known)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(f"{source}: expected the function to return (x, y) or a Data, got {type(found).__name__}")
    return RawData(found[0], found[1])


def _unknown(source: str) -> DataError:
    """Return the error for data of no known kind."""
    if Path(source).is_file():
        return DataError(
            f"{source}: expected a file whose name ends in .npz, {', '.join(_TABLES)}, got another; save it as one of "
            "them"
        )
    return DataError(
        f"unknown data {source!r}: expected digits, {', '.join(LISTED)}, a .npz or .csv file, "
        f"a folder of images by class, or package.module:function{did_you_mean(source.lower(), _BUILT_IN)}"
    )


def _is_function(source: str) -> bool:
    return ":" in source and not Path(source).exists() and not _has_suffix(source, _FILES)


def _check_options_of_source(source: Any, label: str | None, reading: Reading) -> None:
    """Refuse a source of no known kind, and options that do not apply to a source."""
    if not isinstance(source, str):
        if not is_frame(source):
            raise DataError(f"expected the name of data, or a data frame, got {type(source).__name__}")
        table = text = True
    else:
        if not (source in _BUILT_IN or _has_suffix(source, _FILES) or Path(source).is_dir() or _is_function(source)):
            raise _unknown(source)
        text = _has_suffix(source, _TEXT)
        table = _has_suffix(source, _TABLES) or _is_function(source)
    if label is not None and not (table or _has_suffix(source, ".npz")):
        raise DataError(
            f"label={label!r}: expected only with a table ({', '.join(_TABLES)} or a data frame) or a .npz file, got "
            f"{source!r}; leave it out"
        )
    for name, value, applies, wanted in (
        ("drop", reading.dropped, table, "a table"),
        ("missing", reading.missing, table, "a table"),
        ("separator", reading.separator, text, "a text file such as .csv"),
        ("encoding", reading.encoding, text, "a text file such as .csv"),
        ("decimal", reading.decimal, table, "a table"),
        ("resize", reading.size, isinstance(source, str) and Path(source).is_dir(), "a folder of images"),
        ("range", reading.bounds, source not in NAMES if isinstance(source, str) else True, "data without a scale"),
    ):
        if value and not applies:
            raise DataError(f"{name}: expected only with {wanted}, got {source!r}; leave it out")


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


def _has_suffix(source: str, suffix: str | tuple[str, ...]) -> bool:
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
