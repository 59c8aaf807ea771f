r"""Certified radii from bounds in the ball around each input, instead of one bound for the whole domain.

If L_yj(ρ) bounds Lip(f_y − f_j) in the ball of radius ρ around x, nothing closer than ρ is classified differently as
soon as ρ · L_yj(ρ) ≤ f_y(x) − f_j(x) for all j. A large ρ of that kind is searched for between the radius that the
global bound proves and the one that the slopes at x itself would allow, while the multipliers of L are improved.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.local import LocalBounds
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations.interval import Interval
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.rounding import above, below

__all__ = ["bounds_of", "check_local", "local_radii"]

_ROUNDS = 9
_POWER = 0.6  # of the ratio, by which a radius is too large
_LEAST = 1.005  # by which a radius is enlarged, at least
_SMALLEST = 1e-3  # radius that is tried, as a part of the largest
_STEPS = 3  # of the multipliers, for each radius that is tried
_RATE = 0.15  # of a step, in the logs of multipliers
_FORGETTING = (0.8, 0.95)  # Adam's


def local_radii(bounds: LocalBounds, x: Tensor, prediction: Tensor, margins: Tensor, floor: Tensor) -> Tensor:
    r"""Enlarge certified radii by bounds in balls.

    Args:
        bounds: of the model.
        x: inputs, (B, \*shape) float64.
        prediction: their classes, (B,).
        margins: lower bounds of f_y − f_j, (B, C); inf for the class y itself.
        floor: radii that are certified already, (B,) float64; 0 where there is no use in trying.

    Returns:
        Radii, (B,) float64, each at least the floor.
    """
    best = floor.clone()
    tried = (margins.amin(dim=1) > 0).nonzero().flatten()
    if not len(tried):
        return best
    values = [(low[tried], high[tried]) for low, high in bounds.values(x)]
    search = _Search(bounds, values, prediction[tried], margins[tried])
    low = floor[tried]
    high = search.largest().clamp_min(low)
    radius = (torch.maximum(low, _SMALLEST * high) * high).sqrt()  # the two may be orders of magnitude apart
    for _ in range(_ROUNDS):
        ratio = search.ratio(radius)
        low = torch.where(ratio <= 1, torch.maximum(low, radius), low)
        # a ratio grows faster than its radius; multipliers become better on the way, so no radius is given up for good
        radius = (radius * ratio.clamp(0.01, 100.0) ** -_POWER).clamp_min(low * _LEAST).minimum(high)
    best[tried] = low * below(8)
    return torch.maximum(best, floor)


def check_local(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise if a model has no bounds in balls; it is much quicker than computing some.

    Args:
        model: in evaluation mode.
        shape: of one input.

    Raises:
        UnsupportedLayerError: it cannot be read, or is too large to be written as matrices.
    """
    bounds_of(read(model, shape))


def bounds_of(chain: Chain) -> LocalBounds:
    """Prepare bounds in balls; the error for a model that has none says what to do."""
    try:
        return LocalBounds(chain)
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"local: {error}: certify without it") from error


class _Search:
    """The search for multipliers that prove a radius, for some inputs at once.

    Args:
        bounds: of the model.
        values: enclosures of the pre-activations, from :meth:`LocalBounds.values`.
        prediction, margins: as in :func:`local_radii`.
    """

    def __init__(self, bounds: LocalBounds, values: Sequence[Interval], prediction: Tensor, margins: Tensor) -> None:
        self._bounds, self._values, self._margins = bounds, values, margins
        self._rows = torch.arange(len(prediction), device=prediction.device)
        self._prediction = prediction
        self._logs: list[Tensor] | None = None

    @torch.no_grad()
    def largest(self) -> Tensor:
        """Return about the largest radius that any bound could prove: that of the slopes at the inputs themselves."""
        zero = torch.zeros(len(self._rows), dtype=torch.float64, device=self._margins.device)
        lipschitz, _ = self._bounds(self._values, zero)
        radius: Tensor = (self._margins / self._of_pairs(lipschitz)).amin(dim=1)
        return radius.nan_to_num(0.0, posinf=1e6)

    def ratio(self, radius: Tensor) -> Tensor:
        """Return ρ L(ρ) / margin, (B,), with the best multipliers that a few steps find; at most 1 proves a radius."""
        with torch.no_grad():
            logs, ratio = self._start(radius)
        if not logs:  # an affine model: nothing to improve
            return ratio
        best, lead = [log.clone() for log in logs], ratio.clone()
        leaves = [nn.Parameter(log.clone()) for log in logs]
        optimizer = torch.optim.Adam(leaves, lr=_RATE, betas=_FORGETTING)
        for _ in range(_STEPS):
            if bool((lead == math.inf).all()):
                break
            self._step(radius, leaves, optimizer)
            with torch.no_grad():
                ratio = self._ratio(radius, self._bounds(self._values, radius, leaves)[0])
                better, failed = (ratio < lead)[:, None], (ratio == math.inf)[:, None]
                lead = torch.minimum(ratio, lead)
                best = [torch.where(better, new, old) for new, old in zip(leaves, best, strict=True)]
                for leaf, old in zip(leaves, best, strict=True):  # half of the way back where the step was too long
                    leaf.copy_(torch.where(failed, (leaf + old) / 2, leaf))
        self._logs = best
        return lead

    def _start(self, radius: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return for each input the better of the multipliers that were best for the radius before and a closed form.

        Each has its own, whatever comes of the others: what is proved of an input must not depend on its batch.
        """
        lipschitz, closed = self._bounds(self._values, radius)
        fresh = self._ratio(radius, lipschitz)
        if self._logs is None:
            return closed, fresh
        ratio = self._ratio(radius, self._bounds(self._values, radius, self._logs)[0])
        better = (ratio <= fresh)[:, None]
        logs = [torch.where(better, old, new) for old, new in zip(self._logs, closed, strict=True)]
        return logs, torch.minimum(ratio, fresh)

    def _step(self, radius: Tensor, leaves: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Take one step towards smaller ratios, each input by itself."""
        with torch.enable_grad():
            ratio = self._ratio(radius, self._bounds(self._values, radius, leaves)[0])
            loss = torch.where(ratio < math.inf, ratio, 1.0).log().sum()
            gradients = torch.autograd.grad(loss, leaves)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient.nan_to_num(0.0)
        optimizer.step()

    def _of_pairs(self, lipschitz: Tensor) -> Tensor:
        return lipschitz[self._rows, self._prediction]

    def _ratio(self, radius: Tensor, lipschitz: Tensor) -> Tensor:
        """Return how large ρ L_yj is at most, in units of the margins; at most 1 where the radius is proved."""
        ratios: Tensor = (radius.unsqueeze(1) * self._of_pairs(lipschitz)) / self._margins
        return ratios.amax(dim=1).nan_to_num(math.inf) * above(8)
