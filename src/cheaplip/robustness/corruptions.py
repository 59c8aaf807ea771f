"""Corruptions that images meet every day: blur, and another brightness. They know nothing of the model."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from cheaplip.robustness.stage import Problem, Stage

__all__ = ["blur", "brightness"]

_REACH = 3.0  # of the blur, in standard deviations


def blur(problem: Problem, x: Tensor) -> list[Stage]:
    """Make the stage of ``"blur"``: a Gaussian blur of standard deviation ε in pixels, the border's values repeated."""
    _check_images("blur", x)
    reach = max(1, math.ceil(_REACH * problem.epsilon))
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.softmax(-0.5 * (places / problem.epsilon) ** 2, dim=0)

    def stage(x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
        rows = x.reshape(-1, 1, *x.shape[2:])
        for axis, sides in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
            kernel = weights.reshape(1, 1, *[len(weights) if axis == other else 1 for other in (2, 3)])
            rows = conv2d(pad(rows, sides, mode="replicate"), kernel)
        return rows.reshape(x.shape)

    return [stage]


def brightness(problem: Problem, x: Tensor) -> list[Stage]:
    """Make the stages of ``"brightness"``: ε added to every value, and ε taken away, within the box."""
    _check_images("brightness", x)
    return [lambda x, y: x + problem.epsilon, lambda x, y: x - problem.epsilon]  # noqa: ARG005


def _check_images(name: str, x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"{name}: expected images (N, channels, height, width), got shape {tuple(x.shape)}")
