"""The slopes of a link, one range for each channel of an image or entry of a vector."""

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.plan import Layout
from cheaplip.lipschitz.reading.chain import Link
from cheaplip.lipschitz.reading.operations import Elementwise, Scaling

__all__ = ["channel_factors", "channel_slopes"]


def channel_factors(link: Link, layout: Layout) -> Tensor | None:
    """Return the factors of a scaling, (channels,), if each channel has one for all pixels; else None."""
    if not isinstance(link.operation, Scaling):
        return None
    factors = _factors(link, layout)
    return factors[:, 0] if bool((factors == factors[:, :1]).all()) else None


def channel_slopes(
    link: Link, ranges: tuple[Tensor, Tensor] | None, layout: Layout, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest slope of each channel, (channels,) float64.

    Args:
        link: an activation, or a scaling with factors of its own for each pixel.
        ranges: the slopes of each entry, narrowed over a domain. None: those on the whole line.
        layout: of the value.
        device: of the result.
    """
    if not isinstance(link.operation, Elementwise):
        factors = _factors(link, layout)
        return factors.amin(dim=1), factors.amax(dim=1)
    ranges = link.operation.slopes(link.shape, device) if ranges is None else ranges
    low, high = (end.reshape(layout.channels, -1) for end in ranges)
    return low.amin(dim=1), high.amax(dim=1)


def _factors(link: Link, layout: Layout) -> Tensor:
    assert isinstance(link.operation, Scaling)
    return link.operation.scale().double().expand(link.shape).reshape(layout.channels, -1)
