"""Bounds for every pair of outputs, as a tensor that knows what it was proved for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cheaplip.domain import Domain
from cheaplip.lipschitz.fingerprint import Fingerprint

__all__ = ["PairBounds"]

_COPIES = (Tensor.clone, Tensor.cpu, Tensor.cuda, Tensor.detach, Tensor.to)


class PairBounds(Tensor):
    """Bounds of Lip(f_i − f_j), (classes, classes) float64, with what they were proved for.

    Copies on any device are bounds, too; the result of any other operation is a plain tensor.

    Attributes:
        fingerprint: of the model and the domain; its ``upper`` is the largest of the bounds.
        domain: where the bounds hold. None: all of space.
        proved: the bounds as they were computed, a plain tensor.
    """

    fingerprint: Fingerprint
    domain: Domain | None
    proved: Tensor

    @classmethod
    def of(cls, bounds: Tensor, fingerprint: Fingerprint, domain: Domain | None) -> "PairBounds":
        """Attach what they were proved for to bounds."""
        made = bounds.as_subclass(cls)
        made.fingerprint, made.domain, made.proved = fingerprint, domain, bounds.clone()
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "PairBounds":
        """Copy the values, too."""
        copied = self.clone()
        if not isinstance(copied, PairBounds):
            raise TypeError(f"expected a copy of the bounds, got {type(copied).__name__}")
        return copied

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Keep the attributes in copies, and drop the class otherwise."""
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        source = args[0] if args else None
        if func in _COPIES and isinstance(source, PairBounds) and isinstance(result, Tensor):
            copied = result.as_subclass(cls)
            copied.fingerprint, copied.domain, copied.proved = source.fingerprint, source.domain, source.proved
            return copied
        return result
