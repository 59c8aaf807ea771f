"""The digest of a model: a hash of what it computes, by which a proof recognises the model that it is about.

It covers every operation of the traced graph with its options, and the values of all tensors that the operations use.
It is the same for a copy of a model, for the same weights on another device, and for weights that were converted
without loss, as from float32 to float64.
"""

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["model_digest", "tensor_digest"]

_PLACES = (torch.device, torch.layout, torch.memory_format)  # where a tensor lies, not what it is


def model_digest(
    graph: fx.Graph, tensors: Mapping[str, Callable[[], Any]], shape: tuple[int, ...]
) -> Callable[[], str]:
    """Return a function that computes the digest from the tensors' present values, as hexadecimal digits.

    Args:
        graph: of the traced model.
        tensors: by the name of its node, a function that returns the value of each placeholder but the input.
        shape: of one input.
    """
    nodes = [node for node in graph.nodes if node.users or node.op == "output"]
    numbers = {node: number for number, node in enumerate(nodes)}
    used = [tensors[node.name] for node in nodes if node.op == "placeholder" and node.name in tensors]
    lines = [_line(node, numbers, node.name in tensors) for node in nodes]
    return partial(_digest, "\n".join([str(tuple(shape)), *lines]), tuple(used))


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's shape and values: the same in every floating-point type that holds them."""
    value = tensor.detach()
    if value.is_floating_point():
        narrow = value.float()  # half as many bytes to read
        value = narrow if torch.equal(narrow.double(), value.double()) else value.double()
    value = value.cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(value.shape)} {value.dtype};".encode())
    size = value.numel() * value.element_size()
    if size:  # read in place, as torch may be installed without numpy
        digest.update((ctypes.c_ubyte * size).from_address(value.data_ptr()))
    return digest.hexdigest()


def _line(node: fx.Node, numbers: Mapping[fx.Node, int], tensor: bool) -> str:
    if node.op == "placeholder":
        return "tensor" if tensor else "input"
    return f"{node.target} {_written(node.args, numbers)} {_written(sorted(node.kwargs.items()), numbers)}"


def _written(argument: Any, numbers: Mapping[fx.Node, int]) -> str:
    """Write an argument as text, a node as its number."""
    if isinstance(argument, fx.Node):
        return f"%{numbers[argument]}"
    if isinstance(argument, (list, tuple)):
        return f"[{', '.join(_written(part, numbers) for part in argument)}]"
    return "" if isinstance(argument, _PLACES) else repr(argument)


def _digest(structure: str, tensors: tuple[Callable[[], Any], ...]) -> str:
    digest = hashlib.sha256(structure.encode())
    for current in tensors:
        value = current()
        digest.update((tensor_digest(value) if isinstance(value, Tensor) else repr(value)).encode())
    return digest.hexdigest()
