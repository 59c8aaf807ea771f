"""Where a search looks: the domain of the inputs, the data's scale, and a source of randomness."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.domain import Domain
from cheaplip.quotient import column

__all__ = ["SearchSpace"]


@dataclass(frozen=True)
class SearchSpace:
    """A domain with random draws from one generator, made on its device and moved to that of their argument.

    Attributes:
        domain: where inputs live.
        scale: the median distance between two inputs of the data, a scalar.
        generator: the only source of randomness.
    """

    domain: Domain
    scale: Tensor
    generator: torch.Generator

    def integer(self, high: int) -> int:
        """Draw a number from 0, …, high − 1."""
        return int(torch.randint(high, (1,), generator=self.generator, device=self.generator.device))

    def indices(self, count: int, like: Tensor, high: int) -> Tensor:
        """Draw ``count`` numbers from 0, …, high − 1, (count,) int64."""
        return (self.uniform(count, like).flatten() * high).long().clamp_max(high - 1)

    def uniform(self, count: int, like: Tensor) -> Tensor:
        """Draw a number in [0, 1) for each of ``count`` points, (count, 1, …, 1), to broadcast against ``like``."""
        device = self.generator.device
        drawn = torch.rand(count, generator=self.generator, device=device, dtype=like.dtype).to(like.device)
        return column(drawn, like)

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal numbers, in the shape of ``like``."""
        device = self.generator.device
        return torch.randn(like.shape, generator=self.generator, device=device, dtype=like.dtype).to(like.device)

    def exponential(self, like: Tensor) -> Tensor:
        """Draw exponential waiting times of mean 1, in the shape of ``like``."""
        drawn = torch.empty(like.shape, device=self.generator.device).exponential_(generator=self.generator)
        return drawn.to(like)
