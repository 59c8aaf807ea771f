"""The tournament: which pairs make room for newcomers, and at which inputs newcomers start."""

import math

import torch
from torch import Tensor

from cheaplip.distributed import ranks, union
from cheaplip.quotient import at_least_float32, distance

__all__ = ["places", "steepest_inputs", "weakest"]


def places(size: int, renew: int, stride: int) -> int:
    """Count the pairs to replace, of all processes.

    Args:
        size: number of pairs of this process.
        renew: pairs to replace at each training step.
        stride: training steps to make up for; more than one replace at most a quarter of the pairs.
    """
    total = size * ranks()
    most = total if stride == 1 else max(renew, total // 4)
    return min(renew * stride, most, total)


def weakest(quotients: Tensor, age: Tensor, grace: int, count: int) -> tuple[Tensor, Tensor]:
    """Find the pairs with the smallest quotients among those that are old enough, of all processes.

    Args:
        quotients: of this process's pairs, (size,).
        age: of the same pairs, (size,).
        grace: smallest age at which a pair may be replaced.
        count: how many to find.

    Returns:
        Their indices in the union of all processes' pairs, (count,), and whether each may be replaced, (count,): where
        there are fewer old ones, young ones fill up.
    """
    strength = quotients.nan_to_num(-1.0, posinf=math.inf)  # a pair whose quotient is NaN is the first to go
    strength, indices = union(strength.masked_fill(age < grace, math.inf)).topk(count, largest=False)
    return indices, strength < math.inf


def steepest_inputs(pulls: Tensor, lengths: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    r"""Find the inputs where the model is steepest: the largest ‖Jᵀr‖/‖r‖.

    Args:
        pulls: Jᵀr at each input, (k, \*input).
        lengths: ‖r‖ of each, (k,). None: 1.
        count: how many to find, k at most.

    Returns:
        Their slopes, in descending order, -1 for one that is not finite, and their indices, (min(count, k),) each.
    """
    slopes = distance(at_least_float32(pulls))
    slopes = slopes if lengths is None else slopes / lengths
    return torch.topk(slopes.nan_to_num(-1.0, posinf=-1.0), min(count, len(slopes)))
