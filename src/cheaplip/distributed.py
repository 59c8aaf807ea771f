r"""Training in several processes: every rank holds pairs of its own, and the penalty is that of all pairs together.

In one process these functions change nothing. In several, which form the default group of ``torch.distributed``, they
are collective: every rank must make the same calls, in training and when it measures, with as many pairs as the others.
Gradients must be averaged over the ranks, as DistributedDataParallel and ``fully_shard`` do.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cheaplip.model import Model

__all__ = ["average", "own", "rank", "ranks", "replace_", "steepest", "union", "unwrapped", "without_broadcast"]


def ranks() -> int:
    """Count the processes in the default group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number in the default group; 0 where there is none."""
    return dist.get_rank() if ranks() > 1 else 0


def union(values: Tensor) -> Tensor:
    """Gather all ranks' values, in the order of the ranks.

    In the backward pass each rank's gradient goes to its own values only, multiplied by the number of ranks. So the
    average over the ranks is the gradient that one process holding all values would have.

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
    """Cut out this rank's part of values that all ranks hold; the reverse of :func:`union`.

    Args:
        values: (ranks · n, \\*shape), the same on every rank.

    Returns:
        (n, \\*shape), in several processes a copy.

    Raises:
        ValueError: the values cannot be divided evenly.
    """
    if len(values) % ranks():
        raise ValueError(f"expected a multiple of the number of processes ({ranks()}), got {len(values)}")
    return values.chunk(ranks())[rank()].clone() if ranks() > 1 else values


def average(value: Tensor) -> Tensor:
    """Take the mean over the ranks."""
    count = ranks()
    if count == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count


def steepest(slopes: Tensor, u: Tensor, v: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Find the ``count`` steepest pairs among the candidates of all ranks, steepest first.

    Args:
        slopes: of this rank's candidates, (k,), k ≤ count, in descending order.
        u, v: the candidates, (k, \*input) each.
        count: how many pairs are wanted.

    Returns:
        Their slopes, u and v: in one process the k candidates, in several always ``count`` rows. Where there are fewer
        candidates, the rest of the rows has slope -inf.
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
    r"""Overwrite some rows of a tensor that is spread over the ranks.

    Args:
        target: this rank's part, (n, \*shape).
        slots: indices of rows in the union of all parts, (k,), all different.
        chosen: which of these rows to overwrite, (k,), bool.
        rows: the new rows, (k, \*shape), or a number.
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
    """Return the module inside DistributedDataParallel, for passes that leave no gradients in parameters."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class without_broadcast:  # noqa: N801 - a class for the reason evaluation_mode is one
    """Keep DistributedDataParallel from copying buffers between ranks while the block lasts.

    It copies in place. Between the forward and the backward pass of a batch, that would change what autograd has saved.
    """

    def __init__(self, model: Model) -> None:
        self.model = model if isinstance(model, DistributedDataParallel) else None
        self.broadcast = self.model is not None and self.model.broadcast_buffers

    def __enter__(self) -> None:
        if self.model is not None:
            self.model.broadcast_buffers = False

    def __exit__(self, *_: object) -> None:
        if self.model is not None:
            self.model.broadcast_buffers = self.broadcast
