"""Where the inputs live: a box that pairs, searches and attacks stay inside."""

import math

import torch
from torch import Tensor, nn

__all__ = ["Box"]


class Box(nn.Module):
    """The inputs x with low ≤ x ≤ high.

    A module without parameters, so that tensor bounds follow ``.to(device)`` of whatever holds the box.

    Args:
        low, high: numbers, or tensors that broadcast to one input; ``-inf`` and ``inf`` mean no bound.

    Raises:
        ValueError: a bound is NaN, or low is not below high everywhere.

    Example:
        >>> import torch
        >>> Box(0.0, 1.0).project(torch.tensor([-0.5, 0.25, 2.0]))
        tensor([0.0000, 0.2500, 1.0000])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float | Tensor = -math.inf, high: float | Tensor = math.inf) -> None:
        super().__init__()
        low, high = (
            b.detach() if isinstance(b, Tensor) and b.is_floating_point() else torch.as_tensor(b, dtype=torch.float64)
            for b in (low, high)
        )
        if not bool((low < high).all()):  # false for NaN, too
            raise ValueError(f"expected low < high everywhere in the box, got low={low}, high={high}")
        self._scalar = (low.item(), high.item()) if low.dim() == high.dim() == 0 else None
        if self._scalar is not None:  # numbers stay exact there; not every device has float64
            low, high = low.float(), high.float()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    @property
    def bounded(self) -> bool:
        """Whether every side is finite."""
        return bool(torch.isfinite(self.low).all() and torch.isfinite(self.high).all())

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the box to each of ``x`` (B, *input), in any of the usual norms."""
        if self._scalar is not None:
            return x.clamp(*self._scalar)
        return torch.minimum(torch.maximum(x, self.low.to(x)), self.high.to(x))

    def contains(self, x: Tensor) -> bool:
        """Whether every entry of ``x`` (B, *input) lies inside; NaN never does."""
        low, high = self._bounds(x.device, x.dtype)
        return bool(((x >= low) & (x <= high)).all())

    def sample(
        self, size: int, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw ``size`` inputs of ``shape`` uniformly, (size, *shape), on the generator's device.

        Raises:
            ValueError: the box is unbounded, or does not broadcast to ``shape``.
        """
        if not self.bounded:
            raise ValueError(
                f"cannot sample uniformly from an unbounded box: expected finite low and high, got {self!r}"
            )
        self.check_shape(shape)
        device = generator.device
        position = torch.rand((size, *shape), generator=generator, device=device, dtype=dtype)
        low, high = self._bounds(device, dtype)
        return low + position * (high - low)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` unless the bounds broadcast to one input of ``shape``."""
        for name, bound in (("low", self.low), ("high", self.high)):
            trailing = shape[len(shape) - bound.dim() :] if bound.dim() <= len(shape) else None
            if trailing is None or any(b not in (1, n) for b, n in zip(bound.shape, trailing, strict=True)):
                raise ValueError(
                    f"box.{name} of shape {tuple(bound.shape)} does not broadcast to an input of shape {tuple(shape)}"
                )

    def _bounds(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self._scalar is None:
            return self.low.to(device, dtype), self.high.to(device, dtype)
        low, high = (torch.tensor(bound, device=device, dtype=dtype) for bound in self._scalar)
        return low, high

    def extra_repr(self) -> str:
        """The bounds, as numbers where they are numbers."""
        if self._scalar is not None:
            return f"{self._scalar[0]:g}, {self._scalar[1]:g}"
        return f"low: {tuple(self.low.shape)}, high: {tuple(self.high.shape)}"
