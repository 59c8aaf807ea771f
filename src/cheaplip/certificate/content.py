"""Checksums of tensors, by which a change of a single bit is noticed. They are no protection against forgery."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["checksum", "of_model"]

_BLOCK = 4096  # values that are summed at once
_FACTORS = torch.randint(0, 1 << 62, (_BLOCK,), generator=torch.Generator().manual_seed(0)).mul(2).add(1)


def of_model(model: nn.Module) -> list[Tensor]:
    """Return all tensors of a model: parameters, buffers, and those that modules hold as plain attributes."""
    plain = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return [*model.parameters(), *model.buffers(), *plain]


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> Tensor:
    """Return a checksum of the values of tensors, in their order: a scalar, int64.

    A tensor and its copy in float64 have the same checksum.
    """
    sums = [torch.zeros(1, dtype=torch.int64)]
    for tensor in tensors:
        values = tensor.detach().flatten()
        sums.append(_sum(values.double().view(torch.int64) if values.is_floating_point() else values.long()))
    return _sum(torch.cat([part.to(sums[-1].device) for part in sums]))[0]


def _sum(bits: Tensor) -> Tensor:
    """Return the sum of int64 values (N,), modulo 2⁶⁴, each times a number that depends on its position, (1,)."""
    while True:
        count = len(bits)
        # The high bits are copied down. Otherwise the signs of two values would cancel: 2 · 2⁶³ is 0.
        bits = torch.nn.functional.pad(bits ^ (bits >> 32), (0, -count % _BLOCK if count > _BLOCK else 0))
        rows = bits.reshape(-1, min(_BLOCK, max(1, len(bits))))
        bits = (rows * _FACTORS[: rows.shape[1]].to(bits.device)).sum(dim=1) + count
        if len(bits) <= 1:
            return bits if count else bits.new_ones(1)
