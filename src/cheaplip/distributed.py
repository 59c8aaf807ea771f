r"""Many processes: every rank holds its own pairs, and the penalty is that of the union of all ranks' pairs.

Everything here is the identity in one process. In several, of the default group of ``torch.distributed``, calls are
collective: every rank makes the same ones, in training and when it measures, with as many pairs as the others.
Gradients are expected to be averaged over ranks, as DistributedDataParallel and ``fully_shard`` do.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cheaplip.model import Model

__all__ = ["average", "own", "rank", "ranks", "replace_", "steepest", "union", "unwrapped", "without_broadcast"]


def ranks() -> int:
    """Number of processes in the default group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in the default group; 0 where there is none."""
    return dist.get_rank() if ranks() > 1 else 0


def union(values: Tensor) -> Tensor:
    """All ranks' values, in the order of the ranks.

    Gradients reach this rank's own values alone, multiplied by the number of ranks, so that their average over the
    ranks is the gradient of one process that holds everything.

    Args:
        values: (n, \\*shape), the same shape on every rank.

    Returns:
        (ranks · n, \\*shape).
    """
    count = ranks()
    if count == 1:
        return values
    fixed = values.detach().contiguous()
    parts = [torch.empty_like(fixed) for _ in range(count)]
    dist.all_gather(parts, fixed)
    parts[rank()] = fixed + count * (values - fixed) if values.requires_grad else fixed
    return torch.cat(parts)


def own(values: Tensor) -> Tensor:
    """This rank's part of what :func:`union` would give, a copy.

    Raises:
        ValueError: it cannot be divided evenly.
    """
    if len(values) % ranks():
        raise ValueError(f"expected a multiple of the number of processes ({ranks()}), got {len(values)}")
    return values.chunk(ranks())[rank()].clone() if ranks() > 1 else values


def average(value: Tensor) -> Tensor:
    """Mean over ranks."""
    count = ranks()
    if count == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count


def steepest(slopes: Tensor, u: Tensor, v: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""The ``count`` steepest candidates of all ranks, fewer if there are fewer, steepest first.

    Args:
        slopes: this rank's, (k,), k ≤ count, in descending order.
        u, v: the pairs they belong to, (k, \*input).
        count: how many are wanted.

    Returns:
        Slopes, u and v. In several processes always ``count``, those that are not there with slope -inf.
    """
    if ranks() == 1:
        return slopes, u, v
    missing = count - len(slopes)
    rows = torch.cat([slopes.to(u).unsqueeze(1), u.flatten(1), v.flatten(1)], dim=1)
    rows = torch.cat([rows, rows.new_full((missing, rows.shape[1]), -math.inf)])
    rows = union(rows)
    rows = rows[rows[:, 0].topk(count).indices]
    ends_u, ends_v = rows[:, 1:].chunk(2, dim=1)
    return rows[:, 0], ends_u.reshape(count, *u.shape[1:]), ends_v.reshape(count, *v.shape[1:])


def replace_(target: Tensor, slots: Tensor, chosen: Tensor, rows: Tensor | int) -> None:
    r"""Write rows to slots of the union of which ``target`` is this rank's part.

    Args:
        target: (n, \*shape).
        slots: where in the union, (k,), all different.
        chosen: which are to be written, (k,).
        rows: what, (k, \*shape), or a number.
    """
    if ranks() == 1:
        mask = chosen.view(-1, *[1] * (target.dim() - 1))
        target.index_copy_(0, slots, torch.where(mask, rows, target.index_select(0, slots)))
        return
    local = slots - rank() * len(target)
    mine = chosen & (local >= 0) & (local < len(target))
    longer = torch.cat([target, target[:1]])  # what is not ours goes to a row that is thrown away
    longer[torch.where(mine, local, len(target))] = rows
    target.copy_(longer[:-1])


def unwrapped(model: Model) -> Model:
    """The module inside DistributedDataParallel, for passes that leave no gradients in parameters."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class without_broadcast:  # noqa: N801 - a class, as evaluation_mode
    """Keep DistributedDataParallel from copying buffers between ranks: in place, it would spoil the batch's pass."""

    def __init__(self, model: Model) -> None:
        self.model = model if isinstance(model, DistributedDataParallel) else None
        self.broadcast = self.model is not None and self.model.broadcast_buffers

    def __enter__(self) -> None:
        if self.model is not None:
            self.model.broadcast_buffers = False

    def __exit__(self, *_: object) -> None:
        if self.model is not None:
            self.model.broadcast_buffers = self.broadcast
