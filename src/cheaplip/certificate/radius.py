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

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.certificate.local import bounds_of, local_radii
from cheaplip.domain import Ball, Box, Domain
from cheaplip.lipschitz import certifiable
from cheaplip.lipschitz.bounds.ranges import output_interval
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.rounding import EPS, above, below

__all__ = ["certified_accuracy", "certified_interval", "certified_predictions", "certified_radius"]

_UP, _DOWN = above(8), below(8)  # for margins, their quotients and products with a bound: six roundings at most
_BATCH = 1000
_LOCAL_BATCH = 25  # inputs with matrices of their own


def certified_predictions(
    model: nn.Module,
    x: Tensor,
    b: Bracket,
    *,
    pairs: Tensor | None = None,
    local: bool = False,
    batch: int = _BATCH,
) -> tuple[Tensor, Tensor]:
    r"""Predict the class of each input, and prove a radius within which the prediction stays the same.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        x: (B, \*input), floating-point. An input outside the bracket's domain has radius 0.
        b: of this model, 2 → 2.
        pairs: bounds of Lip(f_i − f_j), (classes, classes), from :func:`cheaplip.lipschitz.pairwise` for the same model
            and domain.
        local: whether to bound the constant in the ball around each input, too, which proves more, for models that are
            small enough to be written as matrices; it takes about 0.1 s for an input of a perceptron.
        batch: inputs evaluated at once; fewer need less memory.

    Returns:
        Predictions, (B,) int64, and Euclidean radii, (B,) float64; 0 where nothing is certified.

    Raises:
        TypeError: ``x`` is not floating-point, or ``b`` is no bracket.
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
    certify = _local(classifier) if local else classifier
    parts = [certify(part) for part in torch.split(x, min(batch, _LOCAL_BATCH) if local else batch)]
    prediction, radius = (torch.cat(part) for part in zip(*parts, strict=True))
    return prediction, radius


def certified_radius(
    model: nn.Module, x: Tensor, b: Bracket, *, pairs: Tensor | None = None, local: bool = False
) -> Tensor:
    r"""Prove, for each input, a radius within which the predicted class stays the same.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        x: (B, \*input), floating-point, inside the bracket's domain.
        b: of this model, 2 → 2.
        pairs, local: as in :func:`certified_predictions`.

    Returns:
        Euclidean radii, (B,) float64; 0 where nothing is certified.

    Raises:
        TypeError: ``x`` is not floating-point, or ``b`` is no bracket.
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
    return certified_predictions(model, x, b, pairs=pairs, local=local)[1]


def certified_accuracy(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    b: Bracket,
    epsilon: float,
    *,
    pairs: Tensor | None = None,
    local: bool = False,
) -> float:
    r"""Compute the fraction of inputs that are classified correctly, and provably so within ε.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        loader: batches of inputs (B, \*input) and integer labels (B,); a ``DataLoader``, or a list.
        b: of this model, 2 → 2.
        epsilon: Euclidean radius, 0 or more; at 0, the result is the accuracy without inputs whose logits are tied.
        pairs, local: as in :func:`certified_predictions`.

    Returns:
        In [0, 1].

    Raises:
        TypeError: inputs are not floating-point, labels not integers, or ``b`` is no bracket.
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
    certify = _local(classifier) if local else classifier
    certified = total = 0
    for x, y in loader:
        certifiable.check_inputs(x, b)
        certifiable.check_device(x, classifier.chain)
        certifiable.check_labels(x, y, len(classifier.lipschitz))
        found = [certify(part) for part in (torch.split(x, _LOCAL_BATCH) if local else (x,))]
        prediction, radius = (torch.cat(part) for part in zip(*found, strict=True))
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
        TypeError: ``x`` is not floating-point, or ``b`` is no bracket.
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
        prediction, margins = self.margins(x)
        radius = _DOWN * (margins / self.lipschitz[prediction]).amin(dim=1)
        return prediction, self.within_domain(x, radius)

    def margins(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute predictions, (B,), and by how much they lead over each class, (B, classes): inf over themselves."""
        low, high = output_interval(self.chain, x)
        prediction = (low + high).argmax(dim=1)
        own = torch.arange(low.shape[1], device=low.device) == prediction.unsqueeze(1)
        leads = torch.where(own, low, -math.inf).amax(dim=1, keepdim=True) - high
        return prediction, torch.where(own, math.inf, leads)

    def within_domain(self, x: Tensor, radius: Tensor) -> Tensor:
        """Return the part of a radius that the domain allows; 0 where it is not positive, or NaN."""
        if isinstance(self.domain, Ball):
            radius = torch.minimum(radius, _room(x, self.domain))
        elif isinstance(self.domain, Box):
            bottom, top = self.domain.bounds(x.device, torch.float64)
            radius = torch.where(((x >= bottom) & (x <= top)).flatten(1).all(dim=1), radius, 0.0)
        return torch.where(radius > 0, radius, 0.0)


def _classifier(model: nn.Module, b: Bracket, pairs: Tensor | None) -> _Classifier:
    chain = certifiable.bracketed_chain(model, b)
    return _Classifier(chain, certifiable.class_bounds(chain, b, pairs), b.domain)


def _local(classifier: _Classifier) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return what computes predictions and radii with bounds in the ball around each input, where they are larger."""
    bounds = bounds_of(classifier.chain)

    def certify(x: Tensor) -> tuple[Tensor, Tensor]:
        prediction, radius = classifier(x)
        x = x.double()
        larger = local_radii(bounds, x, prediction, classifier.margins(x)[1], radius)
        return prediction, classifier.within_domain(x, larger)

    return certify


def _room(x: Tensor, ball: Ball) -> Tensor:
    """Return the distance to the border from inside, (B,), rounded downwards."""
    center = ball.center.to(x)
    away = torch.linalg.vector_norm((x - center).flatten(1), dim=1)
    size = ball.radius + torch.linalg.vector_norm(center)
    room: Tensor = ball.radius - away - 4 * center.numel() * EPS * size
    return room
