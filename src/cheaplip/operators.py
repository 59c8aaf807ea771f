"""Two things that ``torch.compile`` cannot trace: counting calls, and drawing from a random generator of our own.

Each is a custom operator, which the compiler calls without looking inside. An operator takes tensors and numbers only,
so the object that counts or draws, its *owner*, is looked up by a number. An operator also names a buffer that it
pretends to change, ``mark``: without that, the compiler could drop calls or change their order.
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
    """Give ``owner`` a number, by which the operators find it as long as it exists."""
    number = next(_numbers)
    _owners[number] = owner
    return number


@torch.library.custom_op("cheaplip::take_turn", mutates_args=("mark",))
def take_turn(mark: Tensor, owner: int) -> None:  # noqa: ARG001
    """Call the owner's ``take_turn()``.

    Args:
        mark: any buffer that nothing else writes to.
        owner: the number that :func:`enrol` returned.
    """
    _owners[owner].take_turn()


@take_turn.register_fake
def _(_mark: Tensor, _owner: int) -> None:
    pass


@torch.library.custom_op("cheaplip::draw", mutates_args=("mark",))
def draw(mark: Tensor, like: Tensor, owner: int, count: int) -> tuple[Tensor, Tensor]:
    """Call the owner's ``draw(count)``.

    Args:
        mark: a buffer that newcomers change.
        like: a tensor (B, *input) of the result's type.
        owner: the number that :func:`enrol` returned.
        count: how many pairs to draw.

    Returns:
        Both ends of the pairs, (count, *input) each.
    """
    del mark, like  # only the compiler needs them
    u, v = _owners[owner].draw(count)
    return u, v


@draw.register_fake
def _(_mark: Tensor, like: Tensor, _owner: int, count: int) -> tuple[Tensor, Tensor]:
    shape = (count, *like.shape[1:])
    return like.new_empty(shape), like.new_empty(shape)
