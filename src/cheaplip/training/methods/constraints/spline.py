"""``LinearSpline``, a trainable piecewise-linear activation, and how it takes the place of another one."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.lipschitz import register_layer
from cheaplip.modes import evaluation_mode

__all__ = ["LinearSpline", "replace_activations_"]

_REACH = 4.0  # the knots lie between −4 and 4; beyond them, the outer pieces go on
_STEP = 0.5  # between two knots; a power of two, so that knots and slopes are exact
_KNOTS = 2 * int(_REACH / _STEP) + 1
_ZERO, _ONE = int(_REACH / _STEP), int((_REACH + 1) / _STEP)  # the knots at 0 and 1
_REPLACED = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.ELU)
_ROUNDING = 1e-13  # more than what float64 takes off a sum of slopes, relative to the sum of their sizes


class LinearSpline(nn.Module):
    r"""Piecewise-linear functions with fixed knots τ_k, one for each channel, with trainable a, b and c:

    .. math:: σ(x) = a + b x + \sum_{τ_k ≥ 0} c_k \max(0, x - τ_k) + \sum_{τ_k < 0} c_k \max(0, τ_k - x).

    As the terms with c start at 0 and grow outwards, few of them are active for an input, and SGD is stable.

    Its Lipschitz constant, in the norms 1, 2 and inf, is the largest slope in size; it is registered with
    :func:`cheaplip.lipschitz.register_layer`.

    Args:
        channels: number of channels, the size of dimension 1 of the inputs.
        activation: the function that all channels are at first, at the knots.

    Reference:
        Aziznejad, Gupta, Campos, Unser 2020, "Deep neural networks with trainable activations and controlled Lipschitz
        constant".

    Example:
        >>> spline = LinearSpline(2, torch.relu)
        >>> spline(torch.tensor([[-7.0, 1.25]])).tolist()
        [[0.0, 1.25]]
        >>> spline.slopes().abs().max().item()
        1.0
    """

    knots: Tensor

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-_REACH, _REACH, _KNOTS), persistent=False)
        with torch.no_grad():
            values = activation(self.knots)
        slopes = values.diff() / _STEP
        self.offset = nn.Parameter(values[_ZERO].repeat(channels, 1))
        self.slope = nn.Parameter(slopes[_ZERO - 1].repeat(channels, 1))
        self.bends = nn.Parameter(slopes.diff().repeat(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each channel's function to it.

        Args:
            x: (B, channels, ...).

        Returns:
            The same shape.
        """
        piece = torch.bucketize(x.detach().contiguous(), self.knots[1:-1])
        first = _KNOTS * torch.arange(x.shape[1], device=x.device)
        at = piece + first.reshape(-1, *[1] * (x.dim() - 2))
        values = self.at_knots().flatten()
        return torch.lerp(values[at], values[at + 1], (x - self.knots[piece]) / _STEP)

    def at_knots(self) -> Tensor:
        """Return the functions' values at the knots, (channels, knots)."""
        return self.offset + self.slope * self.knots + self.bends @ self._terms()

    def slopes(self) -> Tensor:
        """Return the slopes of the pieces, (channels, pieces)."""
        return self.slope + self.bends @ (self._terms().diff(dim=1) / _STEP)

    def variation(self) -> Tensor:
        r"""Return Σ TV⁽²⁾(σ) + |σ(0)| + |σ(1)| over the channels' functions σ, with TV⁽²⁾(σ) = Σ |c_k|.

        The Lipschitz constant of σ is at most its summand.
        """
        return self.bends.abs().sum() + self.at_knots()[:, [_ZERO, _ONE]].abs().sum()

    def _terms(self) -> Tensor:
        """Return the terms that c multiplies, at the knots, (knots between the outer ones, knots)."""
        inner = self.knots[1:-1, None]
        return torch.where(inner < 0, inner - self.knots, self.knots - inner).clamp_min(0)


def _largest_slope(spline: LinearSpline) -> float:
    """Return the registered constant, rounded upwards."""
    with torch.no_grad():
        exact = copy.deepcopy(spline).double()
        sizes = exact.slope.abs().sum(dim=1) + exact.bends.abs().sum(dim=1)
        return float(exact.slopes().abs().max()) + _ROUNDING * float(sizes.max())


for _norm in (1.0, 2.0, math.inf):
    register_layer(LinearSpline, _largest_slope, norm=_norm)


def replace_activations_(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Put a spline in the place of each ReLU, sigmoid, tanh, softplus and ELU of a network, close to it at first.

    Args:
        network: the network; each of these modules is called once.
        shape: the shape of an input.

    Returns:
        How many were replaced.
    """
    widths: dict[nn.Module, int] = {}

    def record(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        widths[module] = output.shape[1]

    found = {path: module for path, module in network.named_modules() if isinstance(module, _REPLACED)}
    hooks = [module.register_forward_hook(record) for module in found.values()]
    with evaluation_mode(network), torch.no_grad():
        network(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    for path, module in found.items():
        network.set_submodule(path, LinearSpline(widths[module], module))
    return len(found)
