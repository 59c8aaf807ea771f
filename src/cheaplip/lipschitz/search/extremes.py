"""The end point of a distribution, estimated from maxima of samples by the reverse Weibull law of extreme values."""

import math

import torch
from torch import Tensor

__all__ = ["estimated_end"]

_FARTHEST, _NEAREST = 10.0, 1e-4  # of the end point from the largest value, in units of the values' range
_SHAPES = (1.0, 60.0)  # below 1 the likelihood has no maximum
_TRIES, _HALVINGS = 65, 50
_ALIKE = 1e-9  # relative range below which values are taken to be equal


def estimated_end(maxima: Tensor) -> float:
    r"""Estimate the end point a of a distribution by fitting a reverse Weibull law to maxima of its samples.

    .. math:: P(y ≤ t) = \exp(-((a - t) / b)^c), \qquad t ≤ a

    with the largest likelihood over a, b and c ≥ 1. The end point is sought up to ten ranges of the values above the
    largest one.

    Args:
        maxima: one of each batch, (N,), finite.

    Returns:
        The estimate, at least the largest value; that value itself where all are alike.
    """
    maxima = maxima.double()
    largest, spread = maxima.max(), maxima.max() - maxima.min()
    if len(maxima) < 3 or not bool(spread > _ALIKE * largest.abs()):
        return float(largest)
    distances = (largest - maxima) / spread
    powers = torch.linspace(math.log(_NEAREST), math.log(_FARTHEST), _TRIES, dtype=torch.float64)
    for _ in range(3):  # each time more finely, about the best
        likelihood = _likelihood(distances, powers.exp())
        best = int(likelihood.argmax())
        powers = torch.linspace(
            float(powers[max(0, best - 1)]), float(powers[min(_TRIES - 1, best + 1)]), _TRIES, dtype=torch.float64
        )
    return float(largest + spread * powers.exp()[_TRIES // 2])


def _likelihood(distances: Tensor, ends: Tensor) -> Tensor:
    """Return the mean log-likelihood at each end point (K,), with the best shape and scale, of the distances (N,)."""
    z = distances + ends.unsqueeze(1)  # (K, N)
    scale = z.amax(dim=1, keepdim=True)
    logs = (z / scale).log()
    mean = logs.mean(dim=1, keepdim=True)
    low, high = (torch.full_like(mean, end) for end in _SHAPES)
    for _ in range(_HALVINGS):  # the derivative with respect to the shape falls
        shape = (low + high) / 2
        weights = torch.softmax(shape * logs, dim=1)
        rising = 1 / shape + mean - (weights * logs).sum(dim=1, keepdim=True) > 0
        low, high = torch.where(rising, shape, low), torch.where(rising, high, shape)
    level = torch.logsumexp(low * logs, dim=1, keepdim=True) - torch.log(torch.tensor(float(z.shape[1])))
    return (low.log() - level + (low - 1) * mean - scale.log()).squeeze(1)
