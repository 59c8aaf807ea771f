"""A chain in whole numbers: its affine operations, and its values as affine functions of the input, without rounding.

A float64 is a whole number over a power of two. Only averages are not, such as those over nine entries, which stand in
float64 for a fraction that is known.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.chain import Chain, Link
from cheaplip.lipschitz.reading.operations import Concatenation, Convolution, Elementwise, Nonnegative, Reshape, Sum

__all__ = ["ExactMap", "ExactValue", "exact_maps"]

_PRODUCTS = 20_000_000  # of whole numbers, for the Jacobian of one region: some seconds
_DENOMINATOR = 1 << 20  # most entries that an average is taken over


class ExactValue(NamedTuple):
    """A value of the chain as an affine function of the input, in whole numbers over a common denominator.

    Attributes:
        columns: the value at 0, then the columns of the Jacobian, (1 + inputs, entries).
        denominator: positive.
    """

    columns: Any
    denominator: int

    @staticmethod
    def identity(inputs: int) -> "ExactValue":
        """Make the input itself."""
        import numpy as np

        return ExactValue(np.eye(1 + inputs, inputs, -1, dtype=int).astype(object), 1)

    def scaled(self, slopes: Sequence[Fraction], offsets: Sequence[Fraction]) -> "ExactValue":
        """Return slopes · value + offsets, entry by entry."""
        import numpy as np

        own = math.lcm(*(number.denominator for number in (*slopes, *offsets)))
        columns = self.columns * np.array([int(slope * own) for slope in slopes], dtype=object)
        columns[0] = columns[0] + np.array([int(offset * own) for offset in offsets], dtype=object) * self.denominator
        return ExactValue(columns, own * self.denominator)._reduced()

    def _reduced(self) -> "ExactValue":
        """Divide by the common factor, so that numbers do not grow with the depth more than they have to."""
        common = self.denominator
        for number in self.columns.flat:
            if common == 1:
                return self
            common = math.gcd(common, int(number))
        return ExactValue(self.columns // common, self.denominator // common)


class ExactMap(NamedTuple):
    """An affine operation: for each argument its matrix, (entries in, entries out); None: the identity."""

    matrices: tuple[Any, ...]
    bias: Any
    denominator: int

    def __call__(self, arguments: Sequence[ExactValue]) -> ExactValue:
        """Apply the operation."""
        common = math.lcm(*(value.denominator for value in arguments))
        total: Any = 0
        for matrix, value in zip(self.matrices, arguments, strict=True):
            columns = value.columns * (common // value.denominator)
            total = total + (columns if matrix is None else columns @ matrix)
        if self.bias is not None:
            total[0] = total[0] + self.bias * common
        return ExactValue(total, self.denominator * common)._reduced()


def exact_maps(chain: Chain) -> dict[int, ExactMap]:
    """Return the affine operations exactly, by the index of their link."""
    shapes = chain.shapes
    columns = 1 + math.prod(chain.shape)
    products = sum(
        columns * math.prod(link.shape) * sum(math.prod(shapes[i]) for i in link.arguments)
        for link in chain.links
        if not isinstance(link.operation, Elementwise | Reshape | Sum | Concatenation)
    )
    if products > _PRODUCTS:
        raise ValueError(
            f"expected a network with a Jacobian of at most {_PRODUCTS} products for the exact constant, got "
            f"{products}: bound it by another method"
        )
    return {at: _map(chain, link) for at, link in enumerate(chain.links) if not isinstance(link.operation, Elementwise)}


@torch.no_grad()
def _map(chain: Chain, link: Link) -> ExactMap:
    operation, shapes = link.operation, [chain.shapes[i] for i in link.arguments]
    linear = getattr(operation, "linear", None)
    if linear is None:
        raise UnsupportedLayerError(
            f"layer {link.path!r} ({type(operation).__name__}) is neither affine nor elementwise: "
            "expected affine maps and piecewise linear activations for the exact constant"
        )
    if getattr(operation, "rounded", False) or (isinstance(operation, Convolution) and operation.circular):
        raise UnsupportedLayerError(
            f"layer {link.path!r} ({type(operation).__name__}) has weights that are rounded when it is read, such as "
            "those of a batch norm that is folded into it: the exact constant is known for weights as they are stored"
        )
    if isinstance(operation, Reshape):
        return ExactMap((None,), None, 1)
    matrices = []
    for at, shape in enumerate(shapes):
        eye = torch.eye(math.prod(shape), dtype=torch.float64, device=chain.device).reshape(-1, *shape)
        others = [eye if i == at else eye.new_zeros(len(eye), *other) for i, other in enumerate(shapes)]
        matrices.append(linear(*others).reshape(len(eye), -1).cpu())
    bias = None
    if getattr(operation, "bias", None) is not None:
        zero = torch.zeros(1, *shapes[0], dtype=torch.float64, device=chain.device)
        bias = operation(zero).flatten().cpu()
    parts = [*matrices, *([] if bias is None else [bias])]
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise UnsupportedLayerError(
            f"layer {link.path!r} ({type(operation).__name__}) has a weight that, computed in float64, is not finite: "
            "expected finite numbers for the exact constant"
        )
    if isinstance(operation, Nonnegative):  # sums and averages: entries such as 1/9 stand for the fractions
        exact = [_fractions(part, lambda x: Fraction(x).limit_denominator(_DENOMINATOR)) for part in parts]
    else:
        exact = [_fractions(part, Fraction) for part in parts]
    denominator = math.lcm(*(value.denominator for part in exact for value in part.flat))
    numbers = [_numerators(part, denominator) for part in exact]
    return ExactMap(tuple(numbers[: len(matrices)]), None if bias is None else numbers[-1], denominator)


def _fractions(tensor: Tensor, exact: Any) -> Any:
    import numpy as np

    known = {value: exact(value) for value in set(tensor.flatten().tolist())}
    found = np.empty(tensor.numel(), dtype=object)
    found[:] = [known[value] for value in tensor.flatten().tolist()]
    return found.reshape(tuple(tensor.shape))


def _numerators(fractions: Any, denominator: int) -> Any:
    import numpy as np

    found = np.empty(fractions.size, dtype=object)
    found[:] = [value.numerator * (denominator // value.denominator) for value in fractions.flat]
    return found.reshape(fractions.shape)
