"""Data by name: built-in sets, ``.npz`` and ``.csv`` files, functions; split, checked and described."""

import copy
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from cheaplip.domain import Box
from cheaplip.experiments import idx
from cheaplip.experiments.idx import DataError
from cheaplip.experiments.image_folder import read_images
from cheaplip.experiments.readers import Raw, call, read_csv, read_npz, refuse_non_finite
from cheaplip.experiments.scaling import Scaling, Standardisation, warn_of_uneven_features
from cheaplip.experiments.tasks import TASKS, Task

__all__ = ["Data", "DataError", "Split", "load"]

_BUILT_IN = ("digits", *idx.NAMES)
_SAMPLE = 256  # inputs looked at for the distance between two of them


class Split(NamedTuple):
    r"""Inputs ``x`` (N, \*shape), float32, and their classes ``y`` (N,), int64, or numbers ``y`` (N, k), float32."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class Data:
    """A classification or regression problem, split and ready for training.

    Attributes:
        name: of the source, for tables.
        train, validation, test: three disjoint parts.
        classes: number of classes; labels run from 0 to ``classes - 1``. 0 for regression.
        domain: the box that holds every input of all three parts.
        epsilon: default radius of attacks in Euclidean distance: 0.2 times the median distance between two training
            inputs, to one significant digit; 2.0 on MNIST.
        noise: default standard deviation of noise: half of ``epsilon``, to one significant digit.
        class_names, feature_names: where the source names them; else empty.
        scaling: from inputs as they came to those here; None: they are the same.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    domain: Box
    epsilon: float
    noise: float
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    scaling: Standardisation | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.x.shape[1:])

    @property
    def task(self) -> Task:
        """What is learnt: classes where labels are integers, else numbers."""
        return TASKS["regression" if self.train.y.is_floating_point() else "classification"]

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for an input."""
        return self.classes or int(self.train.y.shape[1])

    def to(self, device: torch.device | str) -> "Data":
        """The same data on ``device``."""
        train, validation, test = (
            Split(part.x.to(device), part.y.to(device)) for part in (self.train, self.validation, self.test)
        )
        # moving a module happens in place
        domain, scaling = copy.deepcopy(self.domain).to(device), copy.deepcopy(self.scaling)
        scaling = None if scaling is None else scaling.to(device)
        return replace(self, train=train, validation=validation, test=test, domain=domain, scaling=scaling)


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
            :func:`cheaplip.experiments.idx.images_and_labels`), a ``.npz`` file with arrays x and y, a ``.csv`` file
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
    if task not in TASKS:
        raise DataError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
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
        return _check_data(found, source, task)
    x, domain = _inputs(found.x, source)
    y = _numbers(found.y, len(x), source) if numbers else _labels(found.y, len(x), source)
    train, test_part, held_out = _split(y, source, (test, validation), split_seed)
    scaled = None
    if scaling == "standard" or (scaling is None and _has_suffix(source, ".csv") and domain.low.numel() > 1):
        scaled = Standardisation(x[train])
        x = scaled(x)
        domain = _box(x)
    else:
        warn_of_uneven_features(x, source)
    parts = (Split(x[rows], y[rows]) for rows in (train, held_out, test_part))
    data = _describe(Path(source).resolve().name, *parts, classes=0 if numbers else int(y.max()) + 1, domain=domain)
    return replace(data, class_names=found.classes, feature_names=found.features, scaling=scaled)


def _refuse_scaling(scaling: Scaling | None, source: str) -> None:
    if scaling == "standard":
        raise DataError(f"scaling: {source} has its scale and its box already, got standard: leave it out")


def _official(name: str, validation: float, seed: int) -> Data:
    """A set that comes with its own test part."""
    (x, y), (test_x, test_y) = (_images(*idx.images_and_labels(name, part)) for part in ("train", "t10k"))
    train, held_out = _split(y, name, (validation,), seed)
    parts = (Split(x[train], y[train]), Split(x[held_out], y[held_out]), Split(test_x, test_y))
    return _describe(name, *parts, classes=idx.CLASSES, domain=Box(0.0, 1.0))


def _images(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    return _scaled(x[:, None]), torch.from_numpy(y.astype(np.int64))


def _scaled(x: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.divide(x, np.float32(255), dtype=np.float32))


def _describe(name: str, train: Split, validation: Split, test: Split, *, classes: int, domain: Box) -> Data:
    epsilon = _one_digit(0.2 * _median_distance(train.x))
    return Data(name, train, validation, test, classes, domain, epsilon, noise=_one_digit(epsilon / 2))


def _median_distance(x: Tensor) -> float:
    """Median distance between two different inputs, from at most 256 of them; 1 where there are none."""
    some = x[torch.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).long()].reshape(-1, math.prod(x.shape[1:]))
    gaps = torch.pdist(some.double())
    gaps = gaps[gaps > 0]
    return float(gaps.median()) if len(gaps) else 1.0


def _one_digit(number: float) -> float:
    return float(f"{number:.0e}")


def _split(y: Tensor, source: str, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Rows of the rest, then of one part for each fraction of all rows; disjoint, each class in proportion."""
    parts = 1 + len(fractions)
    if y.is_floating_point():
        return _split_at_random(len(y), source, fractions, seed)
    counts = y.bincount()
    if counts.min() < parts:
        raise DataError(
            f"{source}: expected at least {parts} samples of every class, one for each part of the split, "
            f"got {counts.min()} of class {counts.argmin()}; add samples, or drop the class"
        )
    rest, taken = np.arange(len(y)), []
    for fraction in fractions:
        size = round(fraction * len(y))
        try:
            rest, part = train_test_split(rest, test_size=size, stratify=y[rest], random_state=seed)
        except ValueError as error:
            raise DataError(
                f"{source}: cannot split {size} of {len(y)} samples (a fraction of {fraction:g}) off, with all "
                f"{len(counts)} classes in every part; change the fraction, or add samples"
            ) from error
        taken.append(part)
    return [torch.from_numpy(rows) for rows in (rest, *taken)]


def _split_at_random(count: int, source: str, fractions: Sequence[float], seed: int) -> list[Tensor]:
    sizes = [round(fraction * count) for fraction in fractions]
    if min(*sizes, count - sum(sizes)) < 1:
        raise DataError(
            f"{source}: expected enough samples for one in every part, got {count}; add samples, or change fractions"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    *taken, rest = torch.split(order, [*sizes, count - sum(sizes)])
    return [rest, *taken]


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
        found = call(source)
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


def _has_suffix(source: str, suffix: str) -> bool:
    return source.lower().endswith(suffix)


def _existing(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source}: no such file; check the path, which starts at {Path.cwd()}")
    return path


def _array(values: Any, source: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{source}: expected arrays of numbers, each row of the same length: {error}") from error


def _inputs(values: Any, source: str) -> tuple[Tensor, Box]:
    """Finite float32 inputs (N, *shape), and the box they lie in."""
    x = _array(values, source)
    if x.dtype.kind not in "biuf":
        raise DataError(f"{source}: expected x to hold numbers, got {x.dtype}; convert it, for example to float32")
    if x.ndim < 2 or x.size == 0:
        raise DataError(
            f"{source}: expected x of shape (N, *input), with at least one sample and feature, got {x.shape}"
        )
    if x.dtype == np.uint8:
        return _scaled(x), Box(0.0, 1.0)
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    refuse_non_finite(x, source, _place)
    return torch.from_numpy(x), _box(torch.from_numpy(x))


def _place(row: int, *column: int) -> str:
    return f"row {row}, column {', '.join(map(str, column))}"


def _box(x: Tensor) -> Box:
    """[0, 1] if that holds every value, else each feature from its smallest to its largest, with room if constant."""
    low, high = x.amin(dim=0), x.amax(dim=0)
    if low.min() >= 0 and high.max() <= 1:
        return Box(0.0, 1.0)
    room = torch.where(low == high, (1e-6 * low.abs()).clamp_min(0.5), 0.0)  # a half is lost beside numbers above 1e7
    return Box(low - room, high + room)


def _labels(values: Any, count: int, source: str) -> Tensor:
    """Classes (N,), int64: every one of 0, 1, …, at least two of them."""
    y = _array(values, source)
    expected = "expected y to hold the classes 0, 1, …, one integer per sample"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{source}: {expected}, got {y.dtype}; number the classes")
    if y.shape != (count,):
        raise DataError(f"{source}: {expected}: shape ({count},) to go with x, got {y.shape}")
    bad = ~((y >= 0) & (y == np.floor(y))) if y.dtype.kind == "f" else y < 0
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{source}: {expected}, got {y[row]} at row {row}; number the classes from 0")
    classes = np.unique(y)
    if len(classes) < 2:
        raise DataError(
            f"{source}: expected at least two classes, got only class {classes[0]}; add the others' samples"
        )
    if classes[-1] != len(classes) - 1:
        gap = int(np.flatnonzero(classes != np.arange(len(classes)))[0])
        raise DataError(
            f"{source}: {expected}, got none of class {gap} and a largest of {classes[-1]}; "
            "number the classes from 0 without gaps"
        )
    return torch.from_numpy(y.astype(np.int64))


def _numbers(values: Any, count: int, source: str) -> Tensor:
    """Numbers (N, k), float32, finite."""
    y = _array(values, source)
    expected = "expected y to hold numbers, one or several per sample"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{source}: {expected}, got {y.dtype}; convert it, for example to float32")
    if y.shape[:1] != (count,) or y.ndim > 2 or y.size == 0:
        raise DataError(f"{source}: {expected}: shape ({count},) or ({count}, k) to go with x, got {y.shape}")
    with np.errstate(over="ignore"):
        y = y.astype(np.float32).reshape(count, -1)
    refuse_non_finite(y, f"{source}, y", _place)
    return torch.from_numpy(y)


def _check_data(data: Data, source: str, task: str) -> Data:
    """The same data, once each part is known to hold what the class promises."""
    if data.task.name != task:
        raise DataError(
            f"{source}: expected labels for {task}, got {data.train.y.dtype}, for {data.task.name}: say --task "
            f"{data.task.name}, or convert them"
        )
    try:
        data.domain.check_shape(data.shape)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    for part in ("train", "validation", "test"):
        x, y = getattr(data, part)
        where = f"{source}, {part}"
        wanted = (torch.float32, (len(x), data.outputs)) if data.classes == 0 else (torch.int64, (len(x),))
        if x.dtype != torch.float32 or (y.dtype, tuple(y.shape)) != wanted or not len(x):
            form = "int64 (N,)" if data.classes else f"float32 (N, {data.outputs})"
            raise DataError(
                f"{where}: expected x float32 (N, *input) and y {form}, N ≥ 1, "
                f"got {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
            )
        if x.shape[1:] != data.shape:
            raise DataError(f"{where}: expected inputs of shape {data.shape}, as in train, got {tuple(x.shape[1:])}")
        refuse_non_finite(x.cpu().numpy(), where, _place)
        if data.classes == 0:
            refuse_non_finite(y.cpu().numpy(), f"{where}, y", _place)
        elif y.min() < 0 or y.max() >= data.classes:
            raise DataError(f"{where}: expected labels from 0 to {data.classes - 1}, got {y.min()} to {y.max()}")
        if not data.domain.contains(x):
            raise DataError(f"{where}: expected every input inside the domain {data.domain}; widen it")
    return data


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
