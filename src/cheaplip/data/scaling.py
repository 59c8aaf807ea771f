"""Scaling of features whose units differ: standardisation, and a warning where it seems to be missing."""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from cheaplip.errors import CheaplipWarning

__all__ = ["Scaling", "Standardisation", "warn_of_uneven_features"]

Scaling = Literal["standard", "none"]

_UNEVEN = 100.0  # ratio to the median feature's standard deviation from which a feature dominates all distances


class Standardisation(nn.Module):
    r"""Map inputs to (x − mean) / deviation, feature by feature; a constant feature is only shifted.

    Args:
        x: training inputs, (N, \*shape), whose means and standard deviations are used.

    Example:
        >>> standardisation = Standardisation(torch.tensor([[0.0, 1000.0], [2.0, 3000.0]]))
        >>> standardisation(torch.tensor([[1.0, 4000.0]]))
        tensor([[0., 2.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        exact = x.double()
        deviation = exact.std(dim=0, correction=0)
        constant = exact.amin(dim=0) == exact.amax(dim=0)  # rounding may give it a tiny deviation
        self.register_buffer("mean", exact.mean(dim=0).to(x.dtype))
        self.register_buffer("deviation", torch.where(constant, 1.0, deviation).to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        r"""Standardise inputs, (B, \*shape)."""
        return (x - self.mean) / self.deviation

    def inverse(self, x: Tensor) -> Tensor:
        r"""Undo the standardisation of inputs, (B, \*shape)."""
        return x * self.deviation + self.mean


def warn_of_uneven_features(x: Tensor, source: str) -> None:
    r"""Warn where one feature is so spread out that it decides every distance alone.

    Args:
        x: inputs, (N, \*shape).
        source: where they come from, for the message.
    """
    spread = x.flatten(1).std(dim=0) if len(x) > 1 else x.new_zeros(1)
    usual, largest = float(spread.median()), float(spread.max())
    if largest > _UNEVEN * max(usual, 1 / _UNEVEN):
        warnings.warn(
            f"{source}: feature {int(spread.argmax())} (counted from 0) has a standard deviation of {largest:.3g}, the "
            f"median feature one of {usual:.3g}: distances then depend on the first alone, and a network may not learn "
            "from such numbers at all; scale the features first, or use --scaling standard",
            CheaplipWarning,
            stacklevel=4,
        )
