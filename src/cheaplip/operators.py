"""What a compiled step leaves to Python: turns to count, and random draws from a generator of our own.

Neither can stand in a graph of ``torch.compile``, so each is an operator, opaque to the compiler. An operator knows
its owner by number; it says that it changes a buffer, so that the compiler keeps every call, and their order.
"""

import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

__all__ = ["draw", "enrol", "take_turn"]

_owners: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def enrol(owner: object) -> int:
    """A number for ``owner``, by which operators find it as long as it lives."""
    number = next(_numbers)
    _owners[number] = owner
    return number


@torch.library.custom_op("cheaplip::take_turn", mutates_args=("mark",))
def take_turn(mark: Tensor, owner: int) -> None:  # noqa: ARG001
    """Call the owner's ``take_turn()``; ``mark`` is a buffer that nothing else writes to."""
    _owners[owner].take_turn()


@take_turn.register_fake
def _(_mark: Tensor, _owner: int) -> None:
    pass


@torch.library.custom_op("cheaplip::draw", mutates_args=("mark",))
def draw(mark: Tensor, like: Tensor, owner: int, count: int) -> tuple[Tensor, Tensor]:
    """Call the owner's ``draw(count)``: two tensors (count, *input), of the type of ``like`` (B, *input)."""
    del mark, like  # they are there for the compiler
    u, v = _owners[owner].draw(count)
    return u, v


@draw.register_fake
def _(_mark: Tensor, like: Tensor, _owner: int, count: int) -> tuple[Tensor, Tensor]:
    shape = (count, *like.shape[1:])
    return like.new_empty(shape), like.new_empty(shape)
