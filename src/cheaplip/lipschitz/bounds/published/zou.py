r"""The bound of Zou, Balan and Singh (2019) for convolutional networks: products of Bessel bounds.

For a convolution with kernels K_{oi} from channel i to channel o, the filters of one input channel have the Bessel
bound

.. math:: B_i = \sup_ω \sum_o |\hat K_{oi}(ω)|^2,

so that they stretch the channel by √B_i at most. Each output channel adds up what n input channels contribute, and
‖Σ_i y_i‖² ≤ n Σ_i ‖y_i‖². So the layer has Lip² ≤ n max_i B_i. In the paper a linear program joins the layers of any
graph; for layers in a row its optimum is the product of these bounds.
"""

import math
from dataclasses import replace

from cheaplip.lipschitz.bounds.products import Norms
from cheaplip.lipschitz.reading.operations import Convolution
from cheaplip.lipschitz.rounding import UP, product_up

__all__ = ["BesselNorms", "bessel_norm"]


class BesselNorms(Norms):
    """Lipschitz constants of operations, those of convolutions in norm 2 by :func:`bessel_norm`."""

    def __call__(self, operation: object, norm: float, shape: tuple[int, ...]) -> float:
        """Return the constant for inputs of this shape: the known one if it is not finite."""
        known = super().__call__(operation, norm, shape)
        if norm == 2 and isinstance(operation, Convolution) and known < math.inf:
            return bessel_norm(operation, shape)
        return known


def bessel_norm(convolution: Convolution, shape: tuple[int, ...]) -> float:
    r"""Bound the spectral norm of a convolution by the Bessel bounds of its filters.

    .. math:: Lip ≤ \sqrt{n \, \max_i \sup_ω \sum_o |\hat K_{oi}(ω)|^2}, \quad n \text{ the channels of a group}

    The frequencies ω are those of the padded image, on which the convolution is a part of a periodic one.

    Args:
        convolution: its weight is finite.
        shape: of an input, (channels, \*size).

    Returns:
        The bound, rounded upwards.

    Reference:
        Zou, Balan and Singh 2019, On Lipschitz bounds of general convolutional neural networks, IEEE Transactions on
        Information Theory 66(3).
    """
    weight = convolution.weight().detach()
    channels = weight.shape[1]
    # the filters of one input channel are a group of their own
    single = weight.reshape(convolution.groups, -1, *weight.shape[1:]).transpose(1, 2).reshape(-1, 1, *weight.shape[2:])
    apart = replace(convolution, weight=lambda: single, groups=convolution.groups * channels)
    return product_up(float(apart.norm_by_frequencies(shape[1:])), math.sqrt(channels) * UP)
