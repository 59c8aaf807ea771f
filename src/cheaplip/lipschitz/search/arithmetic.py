"""The arithmetic that a model is evaluated in: float64 whatever its code asks for, or with deliberate rounding errors.

A copy of a model in float64 may still compute in float32: with tensors that are no buffers, or after ``x.float()``.
Here every operation that PyTorch executes is intercepted, and its floating-point arguments are converted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["Arithmetic"]

_REAL = (torch.float32, torch.float16, torch.bfloat16)
_COMPLEX = (torch.complex64, torch.complex32)


class Arithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While the block lasts, compute in float64, or with errors in every argument of every operation.

    Attributes:
        narrower: whether an operation had an argument or a result of a narrower type than float64.

    Args:
        promote: convert floating-point arguments and results to float64. The tensors that the model holds stay as they
            are; what it writes into them lasts as long as the block.
        noise: the relative size of the errors; each has a random sign. 0: no errors.
        seed: of the signs.
    """

    def __init__(self, *, promote: bool, noise: float = 0.0, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.promote = promote
        self.noise = noise
        self.seed = seed
        self.narrower = False
        self._generators: dict[torch.device, torch.Generator] = {}
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}  # with the originals, so that no number is used again

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        given: Mapping[str, Any] = kwargs or {}
        if self.promote:
            if func is torch.ops.aten.view.dtype:
                raise RuntimeError("the bits of a tensor are read as another type, so it cannot be computed in float64")
            args, given = tree_map(self._promoted, (args, given))
        if self.noise and not any(part.alias_info for part in (*func._schema.arguments, *func._schema.returns)):
            args, given = tree_map(self._disturbed, (args, given))
        result = func(*args, **given)
        return tree_map(self._promoted, result) if self.promote else result

    def _promoted(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            self.narrower |= value in (*_REAL, *_COMPLEX)
            return torch.float64 if value in _REAL else torch.complex128 if value in _COMPLEX else value
        if not isinstance(value, Tensor) or value.dtype not in (*_REAL, *_COMPLEX):
            return value
        self.narrower = True
        if id(value) not in self._copies:
            wide = value.to(torch.complex128 if value.is_complex() else torch.float64)
            self._copies[id(value)] = (value, wide)
        return self._copies[id(value)][1]

    def _disturbed(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value.device not in self._generators:
            self._generators[value.device] = torch.Generator(value.device).manual_seed(self.seed)
        signs = torch.empty_like(value).bernoulli_(0.5, generator=self._generators[value.device]).mul_(2).sub_(1)
        return value + self.noise * signs * value
