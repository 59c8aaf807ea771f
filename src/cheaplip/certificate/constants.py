"""Constants of an exported program in float64: ONNX would round the numbers of Python to float32."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Float64Constants", "exporting"]


def exporting() -> bool:
    """Return whether the code is being traced by torch.export or for ONNX."""
    traced = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has only the latter
    return bool(torch.onnx.is_in_onnx_export() or traced())


class Float64Constants(TorchFunctionMode):
    """Inside the ``with`` block, a number that float32 would round is handed to torch as a float64 tensor.

    The exporter to ONNX writes a number as float32, even next to a float64 tensor; a tensor it leaves as it is.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor or not any(map(_rounded, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        args = [_as_tensor(value) for value in args]
        kwargs = {name: _as_tensor(value) for name, value in kwargs.items()}
        return getattr(func, "overloadpacket", func)(*args, **kwargs)  # of an operator, the overload for tensors


def _rounded(value: object) -> bool:
    """Return whether ``value`` is a number that float32 would round."""
    if not isinstance(value, float):
        return False
    try:
        (single,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return True
    return bool(single != value and value == value)


def _as_tensor(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if _rounded(value) else value
