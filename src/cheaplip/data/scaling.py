"""Scaling of inputs: standardisation, a range read as 0 to 1, and a warning where scaling seems to be missing."""

import warnings
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cheaplip.errors import CheaplipWarning

__all__ = ["Rescaling", "Scaler", "Scaling", "Standardisation", "spread_out", "warn_of_uneven_features"]

Scaling = Literal["standard", "none"]

_UNEVEN = 100.0  # ratio to the median feature's standard deviation from which a feature dominates all distances
_SMALL = 60.0  # ratio of the largest standard deviation to one from which that feature counts for nothing
_NEGLIGIBLE = 1e4  # ratio from which a feature is taken for constant but for rounding
_TABLE = 50  # features up to which inputs are looked at one by one; with more, they are likely to be pixels


class Scaler(nn.Module):
    r"""Map inputs to (x − mean) / deviation, feature by feature, in float64; the result is float32.

    Args:
        mean, deviation: numbers of any shape that broadcasts to an input.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: Tensor) -> Tensor:
        r"""Scale inputs, (B, \*shape)."""
        return ((x - self.mean) / self.deviation).float()

    def inverse(self, x: Tensor) -> Tensor:
        r"""Undo the scaling of inputs, (B, \*shape), in their type."""
        return (x * self.deviation + self.mean).to(x.dtype)


class Standardisation(Scaler):
    r"""Map inputs to (x − mean) / deviation, feature by feature; a constant feature is only shifted.

    Args:
        x: training inputs, (N, \*shape), whose means and standard deviations are used.
        scaled: which features are scaled, \*shape; the others stay. None: all.

    Example:
        >>> standardisation = Standardisation(torch.tensor([[0.0, 1000.0], [2.0, 3000.0]]))
        >>> standardisation(torch.tensor([[1.0, 4000.0]]))
        tensor([[0., 2.]])
    """

    def __init__(self, x: Tensor, scaled: Tensor | None = None) -> None:
        exact = x.double()
        mean, deviation = exact.mean(dim=0), exact.std(dim=0, correction=0)
        constant = exact.amin(dim=0) == exact.amax(dim=0)  # rounding may give it a tiny deviation
        deviation = torch.where(constant, 1.0, deviation)
        if scaled is not None:
            mean, deviation = torch.where(scaled, mean, 0.0), torch.where(scaled, deviation, 1.0)
        super().__init__(mean, deviation)


class Rescaling(Scaler):
    """Map inputs from [low, high] to [0, 1]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(torch.tensor(low, dtype=torch.float64), torch.tensor(high - low, dtype=torch.float64))


def spread_out(x: NDArray[Any]) -> bool:
    """Return whether features (N, features) differ so much in spread that some count for nothing beside others."""
    spread = x.std(axis=0)
    uneven = (spread > 0) & (spread * _SMALL < spread.max(initial=0.0))
    return bool(x.shape[1] <= _TABLE and uneven.any())


def warn_of_uneven_features(x: Tensor, source: str, names: tuple[str, ...] = ()) -> None:
    r"""Warn where one feature is so spread out that it decides every distance alone, or so little that it never counts.

    Args:
        x: inputs, (N, \*shape).
        source: where they come from, for the message.
        names: the features' names; empty where they have none.
    """
    spread = x.flatten(1).std(dim=0) if len(x) > 1 else x.new_zeros(1)
    usual, largest = float(spread.median()), float(spread.max())
    first, other = int(spread.argmax()), f"the median feature one of {usual:.3g}"
    wrong = "distances then depend on the first alone"
    if largest <= _UNEVEN * max(usual, 1 / _UNEVEN):
        counted = (spread * _SMALL < largest) & (spread * _NEGLIGIBLE > largest)
        if x.ndim > 2 or len(spread) > _TABLE or not counted.any():
            return
        smallest = torch.where(counted, spread, torch.inf)
        first, other = int(smallest.argmin()), f"another feature one of {largest:.3g}"
        wrong, largest = "distances then hardly depend on the first", float(smallest.min())
    name = f"{first} (counted from 0{f'; {names[first]!r}' if names else ''})"
    warnings.warn(
        f"{source}: feature {name} has a standard deviation of {largest:.3g}, {other}: {wrong}, and a network may not "
        "learn from such numbers at all; scale the features first, or use --scaling standard",
        CheaplipWarning,
        stacklevel=4,
    )
