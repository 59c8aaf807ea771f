"""The activations of models by name, among them two that sort: they keep the length of every gradient."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from cheaplip.errors import ModelError

__all__ = ["ACTIVATIONS", "Activation", "FullSort", "MaxMin", "check_widths"]

Activation = Literal["sigmoid", "tanh", "relu", "softplus", "elu", "maxmin", "groupsort"]


class MaxMin(nn.Module):
    r"""Sort each two neighbouring channels: GroupSort with groups of two, 1-Lipschitz in every norm.

    Reference:
        Anil, Lucas, Grosse 2019, "Sorting out Lipschitz function approximation", Section 4.2.

    Example:
        >>> import torch
        >>> MaxMin()(torch.tensor([[3.0, 1.0, 2.0, 5.0]]))
        tensor([[1., 3., 2., 5.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Sort the pairs of channels 0 and 1, 2 and 3, …

        Args:
            x: (B, C) or (B, C, H, W), with an even C.

        Returns:
            The same shape.

        Raises:
            ValueError: C is odd.
        """
        if x.shape[1] % 2:
            raise ValueError(f"x: expected an even number of channels, to sort them in pairs, got {x.shape[1]}")
        return torch.unflatten(x, 1, (-1, 2)).sort(dim=2).values.flatten(1, 2)


class FullSort(nn.Module):
    """Sort all channels: GroupSort with one group, 1-Lipschitz in every norm.

    Reference:
        Anil, Lucas, Grosse 2019, "Sorting out Lipschitz function approximation", Section 4.2.

    Example:
        >>> import torch
        >>> FullSort()(torch.tensor([[3.0, 1.0, 2.0, 5.0]]))
        tensor([[1., 2., 3., 5.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Sort (B, C) or (B, C, H, W) over its channels, smallest first."""
        return x.sort(dim=1).values


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": partial(nn.Softplus, threshold=80.0),  # whose switch to the identity cannot be seen in float64
    "elu": nn.ELU,
    "maxmin": MaxMin,
    "groupsort": FullSort,
}
"""What makes each activation, by name."""


def check_widths(spec: str, activation: Activation, *widths: int) -> None:
    """Raise a :class:`ModelError` if an activation cannot follow layers of these widths.

    Args:
        spec: the name of the model, for the message.
        activation: the activation.
        widths: the numbers of values or channels that it is applied to.
    """
    odd = [width for width in widths if width % 2]
    if activation == "maxmin" and odd:
        raise ModelError(
            f"model {spec!r}: expected even widths with --activation maxmin, which sorts in pairs, got {odd[0]}: "
            "choose even ones, or another activation"
        )
