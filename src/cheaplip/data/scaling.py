"""Features in units of their own, brought to one: each in its standard deviations on the training part."""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from cheaplip.errors import CheaplipWarning

__all__ = ["Scaling", "Standardisation", "warn_of_uneven_features"]

Scaling = Literal["standard", "none"]

_UNEVEN = 100.0  # times the median feature's standard deviation, or 1 if that is more


class Standardisation(nn.Module):
    r"""(x − mean) / deviation, feature by feature; a constant feature is only shifted.

    Args:
        x: training inputs, (N, \*shape).

    Example:
        >>> scaled = Standardisation(torch.tensor([[0.0, 1000.0], [2.0, 3000.0]]))
        >>> scaled(torch.tensor([[1.0, 4000.0]]))
        tensor([[0., 2.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        exact = x.double()
        deviation = exact.std(dim=0, correction=0)
        constant = exact.amin(dim=0) == exact.amax(dim=0)  # rounding may leave it a tiny deviation
        self.register_buffer("mean", exact.mean(dim=0).to(x.dtype))
        self.register_buffer("deviation", torch.where(constant, 1.0, deviation).to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    def inverse(self, x: Tensor) -> Tensor:
        """The features as they came."""
        return x * self.deviation + self.mean


def warn_of_uneven_features(x: Tensor, source: str) -> None:
    """Warn where one feature would decide every distance."""
    spread = x.flatten(1).std(dim=0) if len(x) > 1 else x.new_zeros(1)
    usual, largest = float(spread.median()), float(spread.max())
    if largest > _UNEVEN * max(usual, 1 / _UNEVEN):
        warnings.warn(
            f"{source}: feature {int(spread.argmax())} (counted from 0) has a standard deviation of {largest:.3g}, the "
            f"median feature one of {usual:.3g}: distances weigh features as they come, and a network may not learn "
            "from such numbers at all; scale the features first, or say --scaling standard",
            CheaplipWarning,
            stacklevel=4,
        )
