"""What a model is to this package: one tensor in, one tensor out, a row for each input."""

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["Model", "checked_output"]

Model = nn.Module | Callable[[Tensor], Tensor]
"""A module, or any function, with one tensor in and one out."""


def checked_output(output: object, rows: int) -> Tensor:
    r"""Return a model's output if it is one tensor with a row for each input, (rows, \*output); raise otherwise.

    Raises:
        TypeError: the output is no tensor.
        ValueError: it has another number of rows.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"expected a model with one tensor out, got {type(output).__name__}: "
            "wrap it in a module whose forward returns the tensor that matters"
        )
    if output.dim() == 0 or len(output) != rows:
        raise ValueError(f"expected one output per input, ({rows}, *output), got shape {tuple(output.shape)}")
    return output
