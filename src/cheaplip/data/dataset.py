"""What a data set is: three parts, the box that holds their inputs, and attack radii that suit their distances."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cheaplip.data.checks import refuse_non_finite, row_and_column
from cheaplip.data.recipe import Recipe
from cheaplip.data.scaling import Scaler, Scaling
from cheaplip.domain import Box
from cheaplip.errors import DataError

__all__ = ["Data", "Split", "TaskName", "check_data", "make_data"]

TaskName = Literal["classification", "regression"]

_SAMPLE = 256  # inputs between which the median distance is measured


class Split(NamedTuple):
    r"""Inputs ``x`` (N, \*shape), float32, and their classes ``y`` (N,), int64, or numbers ``y`` (N, k), float32."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class Data:
    """A classification or regression problem, split and ready for training.

    Attributes:
        name: name of the source, for tables.
        train, validation, test: three disjoint parts.
        classes: number of classes; labels run from 0 to ``classes - 1``. 0 for regression.
        domain: the box that holds every input of all three parts.
        epsilon: default radius of attacks in Euclidean distance: 0.2 times the median distance between two training
            inputs, to one significant digit; 2.0 on MNIST.
        noise: default standard deviation of noise: half of ``epsilon``, to one significant digit.
        class_names, feature_names: names of the classes and features; empty where the source has none.
        standardisation, rescaling: the map from the inputs of the source to the inputs here: to standard deviations,
            or from a range of values to [0, 1]. At most one is not None; None for both: they are the same.
        label_scaling: the map from the labels of the source to the labels here, the standard deviations of each of
            several outputs. None: they are the same.
        categorical: the names of a table's columns that hold categories; each category is a feature, 0 or 1.
        recipe: how the source was read, for a run's folder. None: for data that you made yourself.
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
    standardisation: Scaler | None = None
    rescaling: Scaler | None = None
    label_scaling: Scaler | None = None
    categorical: tuple[str, ...] = ()
    recipe: Recipe | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.x.shape[1:])

    @property
    def task(self) -> TaskName:
        """``"regression"`` where labels are floating-point numbers, otherwise ``"classification"``."""
        return "regression" if self.train.y.is_floating_point() else "classification"

    @property
    def scaling(self) -> Scaling:
        """How features were scaled: ``"standard"`` where they were standardised, otherwise ``"none"``."""
        return "none" if self.standardisation is None else "standard"

    @property
    def from_source(self) -> Scaler | None:
        """The map from the inputs of the source to the inputs here; None where they are the same."""
        return self.rescaling if self.standardisation is None else self.standardisation

    @property
    def outputs(self) -> int:
        """The number of a model's outputs: one for each class, or one for each number to predict."""
        return self.classes or int(self.train.y.shape[1])

    def with_labels_in_units(self) -> "Data":
        """Return a copy whose labels are in the units of the source, for a model that predicts these."""
        if (scaler := self.label_scaling) is None:
            return self
        train, validation, test = (
            Split(part.x, scaler.inverse(part.y)) for part in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test, label_scaling=None)

    def to(self, device: torch.device | str) -> "Data":
        """Return a copy of the data on ``device``."""
        train, validation, test = (
            Split(part.x.to(device), part.y.to(device)) for part in (self.train, self.validation, self.test)
        )
        # Modules move in place: without a copy, the original's would move as well.
        standardisation, rescaling, label_scaling = (
            None if scaler is None else copy.deepcopy(scaler).to(device)
            for scaler in (self.standardisation, self.rescaling, self.label_scaling)
        )
        return replace(
            self,
            train=train,
            validation=validation,
            test=test,
            domain=copy.deepcopy(self.domain).to(device),
            standardisation=standardisation,
            rescaling=rescaling,
            label_scaling=label_scaling,
        )


def make_data(name: str, train: Split, validation: Split, test: Split, *, classes: int, domain: Box) -> Data:
    """Make a data set of three parts, with radii that suit the distances between its training inputs."""
    epsilon = _one_digit(0.2 * _median_distance(train.x))
    return Data(name, train, validation, test, classes, domain, epsilon, noise=_one_digit(epsilon / 2))


def _median_distance(x: Tensor) -> float:
    """Return the median distance between two different inputs of a sample; 1 where all inputs are equal."""
    some = x[torch.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).long()].reshape(-1, math.prod(x.shape[1:]))
    gaps = torch.pdist(some.double())
    gaps = gaps[gaps > 0]
    return float(gaps.median()) if len(gaps) else 1.0


def _one_digit(number: float) -> float:
    return float(f"{number:.0e}")


def check_data(data: Data, source: str, task: str) -> Data:
    """Check that a data set made by a user's function holds what :class:`Data` promises, and return it.

    Args:
        data: the data set.
        source: where it comes from, for messages.
        task: the task that it is for.

    Raises:
        DataError: labels of another task, or a part with a wrong type, shape or value.
    """
    if data.task != task:
        raise DataError(
            f"{source}: expected labels for {task}, got {data.train.y.dtype}, for {data.task}: use --task "
            f"{data.task}, or convert them"
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
        refuse_non_finite(x.cpu().numpy(), where, row_and_column)
        if data.classes == 0:
            refuse_non_finite(y.cpu().numpy(), f"{where}, y", row_and_column)
        elif y.min() < 0 or y.max() >= data.classes:
            raise DataError(f"{where}: expected labels from 0 to {data.classes - 1}, got {y.min()} to {y.max()}")
        if not data.domain.contains(x):
            raise DataError(f"{where}: expected every input inside the domain {data.domain}; widen it")
    return data
