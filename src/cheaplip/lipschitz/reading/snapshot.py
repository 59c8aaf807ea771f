"""What a model computes apart from its weights: attributes, layers, hooks and code, so that changes can be found.

A chain reads weights and buffers anew in every call. All else, such as the slope of a LeakyReLU or the stride of a
convolution, it holds as it was when the model was read.
"""

import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Snapshot"]

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_IGNORED = {
    *("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook"),
    *("_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_forward_hooks_always_called"),
}
"""Attributes of a module that do not change what it computes in evaluation mode, or are looked at by other means."""

_DEEPEST = 6  # containers within containers
_LONGEST = 1000  # entries of a container that are looked at


@dataclass(frozen=True)
class Snapshot:
    """A model's attributes at one time, by their path; objects themselves are held, so that none takes another's place.

    Attributes:
        values: by path, such as ``"1.negative_slope"``.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module) -> "Snapshot":
        """Look at a model: layers, hooks, code, and all attributes but weights and buffers, of which the shape counts.

        What is not seen: attributes of objects of other classes, and global variables that a forward reads.
        """
        return cls(dict(_values(model)))

    def changed(self, now: "Snapshot") -> str:
        """Describe the first difference to a later snapshot; empty where there is none."""
        for path in (*self.values, *(path for path in now.values if path not in self.values)):
            if path not in now.values:
                return f"{path!r} was {_text(self.values[path])} and is gone"
            if path not in self.values:
                return f"{path!r} is new: {_text(now.values[path])}"
            if not _same(self.values[path], now.values[path]):
                return f"{path!r} was {_text(self.values[path])} and is {_text(now.values[path])}"
        return ""


def _values(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        yield f"{prefix}__class__", type(module)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            yield prefix + name, None if tensor is None else f"of shape {tuple(tensor.shape)} on {tensor.device}"
        for name, value in vars(module).items():
            if name not in _IGNORED:
                yield from _leaves(prefix + name, value, _DEEPEST)
        for kind in type(module).__mro__:
            if kind.__module__.partition(".")[0] not in ("torch", "builtins", "typing"):
                for name, value in vars(kind).items():
                    if isinstance(value, (*_SIMPLE, types.FunctionType)) and not name.startswith("__"):
                        yield from _leaves(f"{prefix}{name} of {kind.__name__}", value, _DEEPEST)


def _leaves(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield what a value consists of: numbers, and objects that are compared by identity."""
    if isinstance(value, Tensor):
        yield path, (value, value._version if not value.is_inference() else 0)
        return
    if isinstance(value, (nn.Module, *_SIMPLE)) or depth == 0:
        yield path, value
        return
    inner: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and len(value) > _LONGEST:
        yield f"length of {path}", len(value)
    elif isinstance(value, Mapping):
        inner = iter(list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = iter(enumerate(value))
    elif isinstance(value, functools.partial):
        inner = iter([("func", value.func), ("args", value.args), ("keywords", value.keywords)])
    elif isinstance(value, types.MethodType):
        inner = iter([("__func__", value.__func__), ("__self__", value.__self__)])
    elif isinstance(value, types.FunctionType):
        yield path, value.__code__
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        inner = iter([("closure", cells), ("defaults", value.__defaults__), ("kwdefaults", value.__kwdefaults__)])
    elif is_dataclass(value) and not isinstance(value, type):
        inner = iter([(field.name, getattr(value, field.name, None)) for field in fields(value)])
    elif isinstance(value, types.SimpleNamespace):
        inner = iter(vars(value).items())
    if inner is None:
        yield path, value
        return
    yield f"{path} (kind)", type(value)
    for key, part in inner:
        yield from _leaves(f"{path}[{key!r}]", part, depth - 1)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises where it is empty
    except ValueError:
        return False
    return True


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple) and one and isinstance(one[0], Tensor):
        return one[0] is other[0] and bool(one[1] == other[1])
    if isinstance(one, (tuple, *_SIMPLE)) and type(one) is type(other):
        return bool(one == other) or (one != one and other != other)  # NaN
    return one is other


def _text(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return "another tensor"
    if isinstance(value, types.CodeType):
        return f"the function {value.co_name!r}"
    return value if isinstance(value, str) else value.__name__ if isinstance(value, type) else repr(value)[:60]
