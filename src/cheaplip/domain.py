"""The domain of the inputs: a box or a ball that pairs, searches and attacks never leave."""

import math

import torch
from torch import Tensor, nn

from cheaplip.quotient import column, distance

__all__ = ["Ball", "Box", "Domain"]


class Box(nn.Module):
    """The set of inputs x with low ≤ x ≤ high.

    A box is a module without parameters, so that tensor bounds follow ``.to(device)`` of the module that holds it.

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

    @property
    def everywhere(self) -> bool:
        """Whether both bounds are numbers, and the box is all of space."""
        return self._scalar == (-math.inf, math.inf)

    def project(self, x: Tensor) -> Tensor:
        """Move each of ``x`` (B, *input) to the nearest point of the box, nearest in the 1-, 2- and inf-norm alike."""
        if self.everywhere:
            return x
        if self._scalar is not None:
            largest = torch.finfo(x.dtype).max
            low, high = (math.copysign(math.inf, b) if abs(b) > largest else b for b in self._scalar)
            return x.clamp(low, high)
        return torch.minimum(torch.maximum(x, self.low.to(x)), self.high.to(x))

    def contains(self, x: Tensor) -> bool:
        """Tell whether every entry of ``x`` (B, *input) lies inside; NaN never does."""
        low, high = self.bounds(x.device, x.dtype)
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
        low, high = self.bounds(device, dtype)
        width = high - low
        return torch.where(width.isfinite(), low + position * width, (1 - position) * low + position * high)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` unless the bounds broadcast to one input of ``shape``."""
        for name, bound in (("low", self.low), ("high", self.high)):
            trailing = shape[len(shape) - bound.dim() :] if bound.dim() <= len(shape) else None
            if trailing is None or any(b not in (1, n) for b, n in zip(bound.shape, trailing, strict=True)):
                raise ValueError(
                    f"box.{name} of shape {tuple(bound.shape)} does not broadcast to an input of shape {tuple(shape)}"
                )

    def bounds(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return low and high on ``device`` in ``dtype``: scalars, or tensors of the shapes they were given in."""
        if self._scalar is None:
            return self.low.to(device, dtype), self.high.to(device, dtype)
        low, high = (torch.tensor(bound, device=device, dtype=dtype) for bound in self._scalar)
        return low, high

    def extra_repr(self) -> str:
        """The bounds, as numbers where they are numbers."""
        if self._scalar is not None:
            return f"{self._scalar[0]:g}, {self._scalar[1]:g}"
        return f"low: {tuple(self.low.shape)}, high: {tuple(self.high.shape)}"


class Ball(nn.Module):
    """The set of inputs x with ‖x − center‖₂ ≤ radius.

    Args:
        center: one input, (*input), floating-point and finite.
        radius: a positive number.

    Raises:
        TypeError: the center is not a floating-point tensor.
        ValueError: the center is not finite, or the radius not positive and finite.

    Example:
        >>> import torch
        >>> Ball(torch.zeros(2), 1.0).project(torch.tensor([[3.0, 4.0], [0.5, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.5000, 0.0000]])
    """

    center: Tensor
    bounded = True
    everywhere = False

    def __init__(self, center: Tensor, radius: float) -> None:
        super().__init__()
        if not isinstance(center, Tensor) or not center.is_floating_point():
            got = center.dtype if isinstance(center, Tensor) else type(center).__name__
            raise TypeError(f"center: expected a floating-point tensor, one input, got {got}")
        if not bool(torch.isfinite(center).all()):
            raise ValueError("center: expected finite numbers, got NaN or Inf")
        if not 0 < radius < math.inf:  # false for NaN, too
            raise ValueError(f"radius: expected a positive finite number, got {radius}")
        self.radius = float(radius)
        self.register_buffer("center", center.detach(), persistent=False)

    def project(self, x: Tensor) -> Tensor:
        """Move each of ``x`` (B, *input) to the nearest point of the ball in the Euclidean norm."""
        center = self.center.to(x)
        offset = x - center
        length = distance(offset, keepdim=True)
        inside = self.radius * (1 - 4 * torch.finfo(x.dtype).eps)  # so that rounding does not leave it
        if inside > torch.finfo(x.dtype).max:
            return x
        return torch.where(length > inside, center + offset * (inside / length.clamp_min(inside)), x)

    def contains(self, x: Tensor) -> bool:
        """Tell whether every one of ``x`` (B, *input) lies inside, up to the rounding of its type; NaN never does."""
        length = distance(x.double() - self.center.to(x.device, torch.float64))
        size = self.radius + float(torch.linalg.vector_norm(self.center.double()))
        return bool((length <= self.radius + torch.finfo(x.dtype).eps * size).all())

    def sample(
        self, size: int, shape: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw ``size`` inputs of ``shape`` uniformly, (size, *shape), on the generator's device.

        Raises:
            ValueError: the center is of another shape.
        """
        self.check_shape(shape)
        device = generator.device
        direction = torch.randn((size, *shape), generator=generator, device=device, dtype=dtype)
        share = torch.rand(size, generator=generator, device=device, dtype=dtype) ** (1 / max(1, math.prod(shape)))
        length = column(self.radius * share / distance(direction), direction)
        return self.project(self.center.to(device, dtype) + length * direction)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` unless the center is one input of ``shape``."""
        if tuple(self.center.shape) != tuple(shape):
            raise ValueError(
                f"ball.center of shape {tuple(self.center.shape)} is not one input of shape {tuple(shape)}"
            )

    def extra_repr(self) -> str:
        """Shape of the center, and the radius."""
        return f"center: {tuple(self.center.shape)}, radius: {self.radius:g}"


Domain = Box | Ball
"""A box or a ball. Both have ``project``, ``contains``, ``sample`` and ``check_shape``."""
