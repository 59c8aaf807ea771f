r"""Certificates: proofs of what no small perturbation of an input can change.

:func:`certified_predictions` proves a radius for each prediction; :func:`certified_radius`, :func:`certified_accuracy`
and the module :class:`Certified` give the same in other forms. :func:`certified_interval` is for other outputs than
logits.

If Lip(f_y − f_j) ≤ L_yj for the class y that is predicted at x and each other class j, then no x' in the domain with

.. math:: ‖x' - x‖_2 < r(x) = \min_{j ≠ y} \frac{f_y(x) - f_j(x)}{L_{yj}}

is classified differently. L_yj is √2 times the bracket's bound of Lip(f), or the bound of
:func:`cheaplip.lipschitz.pairwise` for the pair, where that is given and smaller.

**The function** that a certificate is about is the one that the stored weights define in real arithmetic. Logits are
computed in float64 and enclosed between bounds that include the rounding of every operation, and r is rounded
downwards. A model that is evaluated in float32 or less may decide differently where two logits are nearly equal;
predictions here are those of float64.

**The perturbations** that are covered depend on the domain of the bracket. Without a domain, all of them are. In a box,
those that stay in the box. In a ball, r is at most the distance from the input to the border, so shorter perturbations
stay inside.

Reference:
    Tsuzuku, Sato, Sugiyama 2018, Lipschitz-margin training.
"""

import copy
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.domain import Ball, Box, Domain
from cheaplip.lipschitz import certifiable
from cheaplip.lipschitz.bounds.ranges import output_interval
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.rounding import EPS, above, below

__all__ = ["Certified", "certified_accuracy", "certified_interval", "certified_predictions", "certified_radius"]

_UP, _DOWN = above(8), below(8)  # for margins, their quotients and products with a bound: six roundings at most
_BATCH = 1000


def certified_predictions(
    model: nn.Module, x: Tensor, b: Bracket, *, pairs: Tensor | None = None, batch: int = _BATCH
) -> tuple[Tensor, Tensor]:
    r"""Predict the class of each input, and prove a radius within which the prediction stays the same.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        x: (B, \*input), floating-point. An input outside the bracket's domain has radius 0.
        b: of this model, 2 → 2.
        pairs: bounds of Lip(f_i − f_j), (classes, classes), from :func:`cheaplip.lipschitz.pairwise` for the same model
            and domain.
        batch: inputs evaluated at once; fewer need less memory.

    Returns:
        Predictions, (B,) int64, and Euclidean radii, (B,) float64; 0 where nothing is certified.

    Raises:
        TypeError: ``x`` is not floating-point.
        ValueError: ``x`` has another shape, the bracket proves nothing or is another model's, or the outputs are not
            logits.

    Example:
        >>> from cheaplip import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> x = torch.tensor([[-3.0, -4.0]])  # 5 from the line where both logits are equal
        >>> prediction, radius = certified_predictions(model, x, bracket(model, shape=(2,)))
        >>> prediction.item(), round(radius.item(), 6)
        (1, 5.0)
    """
    certifiable.check_form(x, b)
    classifier = _classifier(model, b, pairs)
    certifiable.check_device(x, classifier.chain)
    parts = [classifier(part) for part in torch.split(x, batch)]
    prediction, radius = (torch.cat(part) for part in zip(*parts, strict=True))
    return prediction, radius


def certified_radius(model: nn.Module, x: Tensor, b: Bracket, *, pairs: Tensor | None = None) -> Tensor:
    r"""Prove, for each input, a radius within which the predicted class stays the same.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        x: (B, \*input), floating-point, inside the bracket's domain.
        b: of this model, 2 → 2.
        pairs: as in :func:`certified_predictions`.

    Returns:
        Euclidean radii, (B,) float64; 0 where nothing is certified.

    Raises:
        TypeError: ``x`` is not floating-point.
        ValueError: ``x`` lies outside the domain or has another shape, the bracket proves nothing or is another
            model's, or the outputs are not logits.

    Example:
        >>> from cheaplip import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> x = torch.tensor([[3.0, 4.0]])  # 5 from the line where both logits are equal
        >>> round(certified_radius(model, x, bracket(model, shape=(2,))).item(), 6)
        5.0
    """
    certifiable.check_inputs(x, b)
    return certified_predictions(model, x, b, pairs=pairs)[1]


def certified_accuracy(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    b: Bracket,
    epsilon: float,
    *,
    pairs: Tensor | None = None,
) -> float:
    r"""Compute the fraction of inputs that are classified correctly, and provably so within ε.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        loader: batches of inputs (B, \*input) and integer labels (B,); a ``DataLoader``, or a list.
        b: of this model, 2 → 2.
        epsilon: Euclidean radius, 0 or more; at 0, the result is the accuracy without inputs whose logits are tied.
        pairs: as in :func:`certified_predictions`.

    Returns:
        In [0, 1].

    Raises:
        TypeError: inputs are not floating-point, or labels not integers.
        ValueError: ε or a label is out of range, there are no inputs, or as in :func:`certified_radius`.

    Example:
        >>> from cheaplip import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> batches = [(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([0, 0]))]
        >>> certified_accuracy(model, batches, bracket(model, shape=(2,)), epsilon=1.0)
        0.5
    """
    certifiable.check_epsilon(epsilon)
    classifier = _classifier(model, b, pairs)  # read once, not for each batch
    certified = total = 0
    for x, y in loader:
        certifiable.check_inputs(x, b)
        certifiable.check_device(x, classifier.chain)
        certifiable.check_labels(x, y, len(classifier.lipschitz))
        prediction, radius = classifier(x)
        certified += int(((prediction == y) & (radius > epsilon)).sum())
        total += len(x)
    if not total:
        raise ValueError("loader: expected batches of inputs and labels, got none: an iterator can be used only once")
    return certified / total


def certified_interval(model: nn.Module, x: Tensor, b: Bracket, epsilon: float) -> tuple[Tensor, Tensor]:
    r"""Bound every output while the input moves by at most ε: f(x) ± ε·upper, rounded outwards.

    Args:
        model: from inputs (B, \*input) to outputs (B, \*output), in evaluation mode.
        x: (B, \*input), floating-point, inside the bracket's domain.
        b: of this model, 2 → 2.
        epsilon: Euclidean radius, 0 or more; in a ball, the inputs must be at least that far from its border.

    Returns:
        Lower and upper bound, each (B, \*output) float64.

    Raises:
        TypeError: ``x`` is not floating-point.
        ValueError: ε is out of range or reaches across the ball's border, or as in :func:`certified_radius`.

    Example:
        >>> from cheaplip import bracket
        >>> model = nn.Linear(2, 1)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)})
        >>> low, high = certified_interval(model, torch.zeros(1, 2), bracket(model, shape=(2,)), epsilon=0.1)
        >>> round(low.item(), 6), round(high.item(), 6)
        (-0.5, 0.5)
    """
    certifiable.check_epsilon(epsilon)
    certifiable.check_inputs(x, b)
    chain = certifiable.bracketed_chain(model, b)
    certifiable.check_device(x, chain)
    if isinstance(b.domain, Ball) and bool((_room(x.double(), b.domain) < epsilon).any()):
        raise ValueError(
            f"epsilon: expected at most {float(_room(x.double(), b.domain).min()):g}, the smallest distance of an "
            f"input to the border of the bracket's ball, got {epsilon}: bracket a larger ball"
        )
    reach = epsilon * b.upper * _UP
    ends = [output_interval(chain, part.double()) for part in torch.split(x, _BATCH)]
    low, high = (torch.cat(end) for end in zip(*ends, strict=True))
    return (low - reach) - (low.abs() + reach) * (2 * EPS), (high + reach) + (high.abs() + reach) * (2 * EPS)


class Certified(nn.Module):
    r"""A classifier that returns each prediction with its certified radius; it can be exported.

    It computes what :func:`certified_predictions` does in one forward pass in float64, with plain tensor operations, so
    that torch.export and ONNX take it, with both outputs. It holds a copy of the model, which does not change when the
    original is trained on. An input outside the domain, or with NaN, has radius 0.

    For ONNX, pass this module itself to ``torch.onnx.export(…, dynamo=True)``, not a program that was exported from it:
    convolutions are then written as matrix products, because onnxruntime has no convolution in float64. Nor has it
    average pooling, softplus or GELU in float64: serve models with those by torch.export.

    Args:
        model: from inputs (B, \*input) to logits (B, classes); used in evaluation mode.
        bracket: of this model, 2 → 2.
        pairs: as in :func:`certified_predictions`.

    Raises:
        ValueError: the bracket proves nothing or is another model's, or the outputs are not logits.

    Example:
        >>> from cheaplip import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> prediction, radius = Certified(model, bracket(model, shape=(2,)))(torch.tensor([[-3.0, -4.0]]))
        >>> prediction.item(), round(radius.item(), 6)
        (1, 5.0)
    """

    chain: Chain
    lipschitz: Tensor

    def __init__(self, model: nn.Module, bracket: Bracket, *, pairs: Tensor | None = None) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.domain: Domain | None = copy.deepcopy(bracket.domain)
        classifier = _classifier(self.model, bracket, pairs)
        self.chain = classifier.chain
        self.register_buffer("lipschitz", classifier.lipschitz)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return predictions, (B,) int64, and Euclidean radii, (B,) float64, for inputs (B, \*input).

        Raises:
            TypeError: the module was converted to another floating-point type.
        """
        if self.lipschitz.dtype != torch.float64:
            raise TypeError(
                f"a certificate holds for the weights it was made for, got them converted to {self.lipschitz.dtype}: "
                "convert the model first, then bracket it and make a new Certified"
            )
        return _Classifier(self.chain, self.lipschitz, self.domain)(x)


class _Classifier(NamedTuple):
    """What predictions and radii are computed from.

    Attributes:
        chain: the model.
        lipschitz: bounds of Lip(f_i − f_j), (classes, classes) float64.
        domain: where they hold. None: all of space.
    """

    chain: Chain
    lipschitz: Tensor
    domain: Domain | None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute predictions and radii, (B,) each, without decisions that depend on the batch: it can be exported."""
        x = x.double()
        low, high = output_interval(self.chain, x)
        prediction = (low + high).argmax(dim=1)
        own = torch.arange(low.shape[1], device=low.device) == prediction.unsqueeze(1)
        margins = torch.where(own, low, -math.inf).amax(dim=1, keepdim=True) - high
        ratios = margins / self.lipschitz[prediction]
        radius = _DOWN * torch.where(own, math.inf, ratios).amin(dim=1)
        if isinstance(self.domain, Ball):
            radius = torch.minimum(radius, _room(x, self.domain))
        elif isinstance(self.domain, Box):
            bottom, top = self.domain.bounds(x.device, torch.float64)
            radius = torch.where(((x >= bottom) & (x <= top)).flatten(1).all(dim=1), radius, 0.0)
        return prediction, torch.where(radius > 0, radius, 0.0)  # also for NaN


def _classifier(model: nn.Module, b: Bracket, pairs: Tensor | None) -> _Classifier:
    chain = certifiable.bracketed_chain(model, b)
    return _Classifier(chain, certifiable.class_bounds(chain, b, pairs), b.domain)


def _room(x: Tensor, ball: Ball) -> Tensor:
    """Return the distance to the border from inside, (B,), rounded downwards."""
    center = ball.center.to(x)
    away = torch.linalg.vector_norm((x - center).flatten(1), dim=1)
    size = ball.radius + torch.linalg.vector_norm(center)
    room: Tensor = ball.radius - away - 4 * center.numel() * EPS * size
    return room
