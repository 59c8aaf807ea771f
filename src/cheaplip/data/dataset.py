"""A data set: three parts, the box they live in, and the radii that suit it."""

import copy
import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cheaplip.data.checks import place, refuse_non_finite
from cheaplip.data.scaling import Standardisation
from cheaplip.domain import Box
from cheaplip.errors import DataError

__all__ = ["Data", "Split", "TaskName", "check", "describe"]

TaskName = Literal["classification", "regression"]

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
    def task(self) -> TaskName:
        """What is learnt: classes where labels are integers, else numbers."""
        return "regression" if self.train.y.is_floating_point() else "classification"

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


def describe(name: str, train: Split, validation: Split, test: Split, *, classes: int, domain: Box) -> Data:
    """Data with the radii that suit the distances between its training inputs."""
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


def check(data: Data, source: str, task: str) -> Data:
    """The same data, once each part is known to hold what the class promises."""
    if data.task != task:
        raise DataError(
            f"{source}: expected labels for {task}, got {data.train.y.dtype}, for {data.task}: say --task "
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
        refuse_non_finite(x.cpu().numpy(), where, place)
        if data.classes == 0:
            refuse_non_finite(y.cpu().numpy(), f"{where}, y", place)
        elif y.min() < 0 or y.max() >= data.classes:
            raise DataError(f"{where}: expected labels from 0 to {data.classes - 1}, got {y.min()} to {y.max()}")
        if not data.domain.contains(x):
            raise DataError(f"{where}: expected every input inside the domain {data.domain}; widen it")
    return data
