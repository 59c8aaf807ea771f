"""What is refused at construction of a set of pairs: inputs that cannot move, options out of range."""

import math
from typing import get_args

import torch
from torch import Tensor

from cheaplip.pairs.climbing import Climb
from cheaplip.pairs.drawing import Start

__all__ = ["check_inputs", "check_options"]


def check_inputs(x: Tensor) -> None:
    """Raise unless ``x`` is a batch of finite floating-point inputs."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor of inputs (B, *input), got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"x: expected floating-point inputs, got {x.dtype}: pairs move continuously, so convert the inputs "
            "(x.float()), or for tokens pass their embeddings"
        )
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x: expected a batch of at least one input, got shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite inputs, got NaN or Inf: clean the data first")


def check_options(
    *,
    size: int,
    start: str,
    step: str,
    step_size: float | None,
    distances: tuple[float, float, float],
    renew: int,
    grace: int,
) -> None:
    """Raise a ``ValueError`` that names the first option of a :class:`PairSet` that is out of range."""
    if size < 1:
        raise ValueError(f"size: expected at least one pair, got {size}")
    for name, value, kinds in (("start", start, get_args(Start)), ("step", step, get_args(Climb))):
        if value not in kinds:
            raise ValueError(f"{name}: expected one of {', '.join(kinds)}, got {value!r}")
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size: expected a positive number, got {step_size}")
    if len(distances) != 3 or not 0 < distances[0] <= distances[2] <= distances[1] < math.inf:
        raise ValueError(
            "distances: expected (smallest, largest, newcomers') with "
            f"0 < smallest <= newcomers' <= largest, got {distances}"
        )
    for name, count in (("renew", renew), ("grace", grace)):
        if count < 0:
            raise ValueError(f"{name}: expected 0 or more, got {count}")
