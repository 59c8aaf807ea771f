"""The bound of a convolutional network in Fourier space, with multipliers to train."""

import torch
from torch import Tensor, nn

from cheaplip.lipschitz.bounds.fourier.bound import FourierBound
from cheaplip.lipschitz.bounds.fourier.gram import largest_eigenvalue
from cheaplip.lipschitz.bounds.fourier.multipliers import InfeasibleError
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.rounding import above

__all__ = ["TrainableFourier"]


class TrainableFourier:
    """The bound of a chain in Fourier space, differentiable in its weights and its multipliers.

    Args:
        chain: whose links all have a known Lipschitz constant.

    Attributes:
        log_multipliers: the choices of :class:`~cheaplip.lipschitz.bounds.fourier.walk.Walk`, at first from the closed
            form. They are relative to the sizes of what they are for, so that the scale of the weights has no say.
        restarts: how often the multipliers became infeasible and were reset to the closed form.
    """

    def __init__(self, chain: Chain) -> None:
        self._bound = FourierBound(chain)
        self.log_multipliers = [nn.Parameter(choice) for choice in self._bound.closed_form()[1]]
        self.restarts = 0

    def __call__(self) -> Tensor:
        """Compute the bound: a float64 scalar on the chain's device; inf where nothing is proved."""
        try:
            gram = self._bound.walk(self.log_multipliers or None).run()
        except InfeasibleError:
            self.restarts += 1
            self._set(self._bound.closed_form()[1])
            try:
                gram = self._bound.walk(self.log_multipliers or None).run()
            except InfeasibleError:  # weights that are not finite
                return torch.full((), torch.inf, dtype=torch.float64, device=self._bound.device)
        return largest_eigenvalue(gram).sqrt() * above(4)

    @torch.no_grad()
    def tighten_(self, seconds: float) -> None:
        """Set the multipliers to the best for the present weights."""
        self._set(self._bound.optimise(seconds=seconds)[1])

    @torch.no_grad()
    def _set(self, choices: list[Tensor]) -> None:
        for log, choice in zip(self.log_multipliers, choices, strict=False):
            log.copy_(choice)
