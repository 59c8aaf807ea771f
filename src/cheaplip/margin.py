"""A loss with a scale of its own: the smooth hinge on leads."""

import math

import torch
from torch import Tensor, nn

__all__ = ["MarginLoss"]


class MarginLoss(nn.Module):
    r"""Smooth hinge on the leads z_y − z_j of the label's output over each other output:

    .. math:: t \log\Big(1 + \sum_{j≠y} \exp\frac{m - (z_y - z_j)}{t}\Big), \quad t = \text{soft} · m.

    If z has Lipschitz constant 1, a lead of m is a radius of m/√2 within which the class stays as it is. So the margin
    is a distance between inputs: larger means more stable and less accurate. :class:`DiscrepancyPrinciple` can steer
    it, like the λ of a penalty: it is kept in the buffer ``lam``.

    Args:
        margin: m, positive, in the units of the inputs.
        soft: temperature in units of the margin, positive. Near 0 it is the hinge max(0, m − lead), which small
            networks answer with equal outputs for all inputs.

    Raises:
        ValueError: an option is not positive.

    Example:
        >>> import torch
        >>> MarginLoss(1.0, soft=0.01)(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 1]))
        tensor(0.2500)
    """

    lam: Tensor

    def __init__(self, margin: float, *, soft: float = 0.1) -> None:
        super().__init__()
        for name, value in (("margin", margin), ("soft", soft)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.soft = soft
        self.register_buffer("lam", torch.tensor(float(margin)))

    def extra_repr(self) -> str:
        """The options; the margin is in the buffer ``lam``."""
        return f"soft={self.soft:g}"

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Compute the mean loss.

        Args:
            z: outputs, (B, classes).
            y: labels, (B,), integers.

        Returns:
            A scalar.
        """
        temperature = self.soft * self.lam
        own = y.unsqueeze(1)
        # log(1 + Σ_{j≠y} exp((m − lead_j)/t)) is the cross-entropy of z/t with m/t taken from the label's output
        handicapped = (z / temperature).scatter_add(1, own, z.new_full((1, 1), -1 / self.soft).expand(len(z), 1))
        return temperature * nn.functional.cross_entropy(handicapped, y)
