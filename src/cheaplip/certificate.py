r"""What no perturbation can change, proved: radii, certified accuracy, intervals; a model that says so itself.

If Lip(f_y − f_j) ≤ L_yj for the class y that is predicted at x and each other class j, then no x' of the domain with

.. math:: ‖x' - x‖_2 < r(x) = \min_{j ≠ y} \frac{f_y(x) - f_j(x)}{L_{yj}}

is classified differently. L_yj is √2 times the bracket's bound of Lip(f), or what :func:`cheaplip.lipschitz.pairwise`
proves for the pair, where that is given and smaller.

**What this is about** is the function that the stored weights define in real arithmetic. Logits are evaluated in
float64 and enclosed between certain bounds, the rounding of every operation included, and r is rounded downwards.
Hardware that evaluates the model in float32, or less, may differ from that function where two logits are that close;
predictions here are those of float64.

**Where it holds** is the domain of the bracket. Without a domain, everywhere. In a box, for perturbations that stay in
the box: one that leaves it is not covered where the bracket is local to the box. In a ball, r is cut at its border.

Reference:
    Tsuzuku, Sato, Sugiyama 2018, Lipschitz-margin training.
"""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cheaplip.domain import Ball, Box, Domain
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.reading.chain import Chain, read
from cheaplip.quotient import quotient

__all__ = ["Certified", "certified_accuracy", "certified_interval", "certified_radius"]

_DOWN = 1 - 2.0**-49  # times a few roundings in float64
_UP = 1 + 2.0**-49
_SAME = 1e-2  # relative difference at which a witness's quotient is another model's; lower is rounded down
_BATCH = 1000


def certified_radius(model: nn.Module, x: Tensor, b: Bracket, *, pairs: Tensor | None = None) -> Tensor:
    r"""Largest proved radius within which the predicted class of each input stays as it is.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        x: (B, \*input), floating-point, inside the bracket's domain.
        b: of this model, 2 → 2.
        pairs: bounds of Lip(f_i − f_j), (classes, classes), from :func:`cheaplip.lipschitz.pairwise` for the same model
            and domain.

    Returns:
        (B,) float64, Euclidean; 0 where nothing is certified.

    Raises:
        TypeError: ``x`` is not floating-point.
        ValueError: ``x`` lies outside the domain or has another shape, the bracket proves nothing or is another
            model's, or the outputs are not logits.

    Example:
        >>> from cheaplip.lipschitz.bracket import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> x = torch.tensor([[3.0, 4.0]])  # 5 from the line where both logits are equal
        >>> round(certified_radius(model, x, bracket(model, shape=(2,))).item(), 6)
        5.0
    """
    chain = _chain(model, b)
    lipschitz = _class_bounds(chain, b, pairs)
    _check_inputs(x, chain, b)
    return torch.cat([_classify(chain, part, lipschitz, b.domain)[1] for part in torch.split(x, _BATCH)])


def certified_accuracy(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    b: Bracket,
    epsilon: float,
    *,
    pairs: Tensor | None = None,
) -> float:
    r"""The fraction of inputs that are classified correctly, and provably so within ε.

    Args:
        model: from inputs (B, \*input) to logits (B, classes), in evaluation mode.
        loader: batches of inputs (B, \*input) and integer labels (B,); a ``DataLoader``, or a list.
        b: of this model, 2 → 2.
        epsilon: Euclidean radius, 0 or more; at 0, what is left is the accuracy but for ties.
        pairs: as in :func:`certified_radius`.

    Returns:
        In [0, 1].

    Raises:
        TypeError: inputs are not floating-point, or labels not integers.
        ValueError: ε or a label is out of range, there are no inputs, or as in :func:`certified_radius`.

    Example:
        >>> from cheaplip.lipschitz.bracket import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> batches = [(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([0, 0]))]
        >>> certified_accuracy(model, batches, bracket(model, shape=(2,)), epsilon=1.0)
        0.5
    """
    _check_epsilon(epsilon)
    chain = _chain(model, b)
    lipschitz = _class_bounds(chain, b, pairs)
    certified = total = 0
    for x, y in loader:
        _check_inputs(x, chain, b)
        _check_labels(x, y, len(lipschitz))
        prediction, radius = _classify(chain, x, lipschitz, b.domain)
        certified += int(((prediction == y) & (radius > epsilon)).sum())
        total += len(x)
    if not total:
        raise ValueError("loader: expected batches of inputs and labels, got none: an iterator can be used only once")
    return certified / total


def certified_interval(model: nn.Module, x: Tensor, b: Bracket, epsilon: float) -> tuple[Tensor, Tensor]:
    r"""Between what limits every output stays while the input moves by at most ε: f(x) ± ε·upper, rounded outwards.

    Args:
        model: from inputs (B, \*input) to outputs (B, \*output), in evaluation mode.
        x: (B, \*input), floating-point, inside the bracket's domain.
        b: of this model, 2 → 2.
        epsilon: Euclidean radius, 0 or more; in a ball the inputs must be at least that far from its border.

    Returns:
        Smallest and largest value, each (B, \*output) float64.

    Raises:
        TypeError: ``x`` is not floating-point.
        ValueError: ε is out of range or reaches across the ball's border, or as in :func:`certified_radius`.

    Example:
        >>> from cheaplip.lipschitz.bracket import bracket
        >>> model = nn.Linear(2, 1)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)})
        >>> low, high = certified_interval(model, torch.zeros(1, 2), bracket(model, shape=(2,)), epsilon=0.1)
        >>> round(low.item(), 6), round(high.item(), 6)
        (-0.5, 0.5)
    """
    _check_epsilon(epsilon)
    chain = _chain(model, b)
    _check_inputs(x, chain, b)
    if isinstance(b.domain, Ball) and bool((_room(x.double(), b.domain) < epsilon).any()):
        raise ValueError(
            f"epsilon: expected at most {float(_room(x.double(), b.domain).min()):g}, the smallest distance of an "
            f"input to the border of the ball the bracket is about, got {epsilon}: bracket a larger ball"
        )
    reach = epsilon * b.upper * _UP
    ends = [_outputs(chain, part.double()) for part in torch.split(x, _BATCH)]
    low, high = (torch.cat(end) for end in zip(*ends, strict=True))
    return (low - reach) - (low.abs() + reach) * 2.0**-51, (high + reach) + (high.abs() + reach) * 2.0**-51


class Certified(nn.Module):
    r"""A classifier that returns each prediction with the radius within which it is proved.

    One forward pass in float64, which encloses its own rounding; made of plain tensor operations, so that torch.export
    and ONNX take it, with both outputs. It holds a copy of the model: later training of yours does not reach it.
    An input outside the domain, or with NaN, gets radius 0.

    For ONNX, give this module to ``torch.onnx.export(…, dynamo=True)``, not a program of it: convolutions are then
    written as products of matrices, for onnxruntime has none in float64. It has no average pooling, softplus or GELU in
    float64 either: serve those with torch.export.

    Args:
        model: from inputs (B, \*input) to logits (B, classes); used as in evaluation mode.
        bracket: of this model, 2 → 2.
        pairs: as in :func:`certified_radius`.

    Raises:
        ValueError: the bracket proves nothing or is another model's, or the outputs are not logits.

    Example:
        >>> from cheaplip.lipschitz.bracket import bracket
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
        self.chain = _chain(self.model, bracket)
        self.register_buffer("lipschitz", _class_bounds(self.chain, bracket, pairs))
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Prediction (B,) int64 and radius (B,) float64, for inputs (B, \*input).

        Raises:
            TypeError: the module was converted to another floating-point type.
        """
        if self.lipschitz.dtype != torch.float64:
            raise TypeError(
                f"a certificate holds for the weights it was made for, got them converted to {self.lipschitz.dtype}: "
                "convert the model first, then bracket it and make a new Certified"
            )
        return _classify(self.chain, x, self.lipschitz, self.domain)


def _classify(chain: Chain, x: Tensor, lipschitz: Tensor, domain: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Prediction and radius, (B,) each."""
    x = x.double()
    low, high = _outputs(chain, x)
    prediction = (low + high).argmax(dim=1)
    own = torch.arange(low.shape[1], device=low.device) == prediction.unsqueeze(1)
    margins = torch.where(own, low, -math.inf).amax(dim=1, keepdim=True) - high
    ratios = margins / lipschitz[prediction]
    radius = _DOWN * torch.where(own, math.inf, ratios).amin(dim=1)
    if isinstance(domain, Ball):
        radius = torch.minimum(radius, _room(x, domain))
    elif isinstance(domain, Box):
        bottom, top = domain.bounds(x.device, torch.float64)
        radius = torch.where(((x >= bottom) & (x <= top)).flatten(1).all(dim=1), radius, 0.0)
    return prediction, torch.where(radius > 0, radius, 0.0)  # also for NaN


@torch.no_grad()
def _outputs(chain: Chain, x: Tensor) -> tuple[Tensor, Tensor]:
    """What lies certainly below and above the exact outputs.

    As :func:`cheaplip.lipschitz.bounds.propagation.enclose`, but without any decision that depends on the batch, which
    could not be exported.
    """
    boxes = [(x, x)]
    for step in chain.steps:
        boxes.append(step.operation.interval(*(boxes[i] for i in step.arguments)))
    return boxes[-1]


def _room(x: Tensor, ball: Ball) -> Tensor:
    """Distance to the border from inside, rounded downwards, (B,)."""
    center = ball.center.to(x)
    away = torch.linalg.vector_norm((x - center).flatten(1), dim=1)
    size = ball.radius + torch.linalg.vector_norm(center)
    room: Tensor = ball.radius - away - 4 * center.numel() * torch.finfo(torch.float64).eps * size
    return room


def _chain(model: nn.Module, b: Bracket) -> Chain:
    """The model as it was bracketed."""
    if b.norm != 2:
        raise ValueError(f"bracket: expected one in norm 2, got norm {b.norm:g}: call bracket(model, ..., norm=2)")
    if not b.upper < math.inf:
        raise ValueError(f"nothing is certified, for the bracket has no finite upper bound: {b.reason}")
    u, v = b.witness
    try:
        chain = read(model, tuple(u.shape))
    except (UnsupportedLayerError, ValueError) as error:
        raise ValueError(f"bracket: expected one of this model, but the model cannot be read: {error}") from error
    low, high = _outputs(chain, torch.stack([u, v]).to(chain.device, torch.float64))
    fu, fv = ((low + high) / 2).unsqueeze(1)
    found = float(quotient(fu, fv, u.unsqueeze(0).to(fu), v.unsqueeze(0).to(fu)))
    if not abs(found - b.lower) <= _SAME * max(found, b.lower):
        raise ValueError(
            f"bracket: expected one of this model, got one whose witness has the quotient {b.lower:.6g}, here "
            f"{found:.6g}: the weights have changed since, or it is another model; bracket it again"
        )
    return chain


def _class_bounds(chain: Chain, b: Bracket, pairs: Tensor | None) -> Tensor:
    """Bounds of Lip(f_i − f_j), (classes, classes) float64."""
    if len(chain.out_shape) != 1 or chain.out_shape[0] < 2:
        shape = ", ".join(map(str, chain.out_shape))
        raise ValueError(
            f"expected logits (B, classes) of two or more classes, got outputs (B, {shape}): for other outputs use "
            "certified_interval"
        )
    classes = chain.out_shape[0]
    bounds = torch.full((classes, classes), math.sqrt(2) * b.upper * _UP, dtype=torch.float64, device=chain.device)
    if pairs is None:
        return bounds
    if pairs.shape != bounds.shape or not bool((pairs >= 0).all()):
        raise ValueError(
            f"pairs: expected bounds of 0 or more, shape {tuple(bounds.shape)}, got shape {tuple(pairs.shape)} and "
            f"values from {float(pairs.min()):g}: take them from cheaplip.lipschitz.pairwise"
        )
    return torch.minimum(bounds, pairs.to(bounds))


def _check_inputs(x: Tensor, chain: Chain, b: Bracket) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x: expected a tensor of floating-point inputs, got {got}: convert them with x.float()")
    if tuple(x.shape[1:]) != chain.shape or not len(x):
        raise ValueError(f"x: expected inputs (B, {', '.join(map(str, chain.shape))}), got shape {tuple(x.shape)}")
    if x.device != chain.device:
        raise ValueError(f"x is on {x.device}, the model on {chain.device}: move one with .to(device)")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite numbers, got NaN or infinity")
    if b.domain is not None and not b.domain.contains(x.double()):
        raise ValueError(
            f"x: expected inputs inside {b.domain!r}, which the bracket is about, got values from {float(x.min()):g} "
            f"to {float(x.max()):g}: the certificate does not hold there; bracket the domain they live in"
        )


def _check_labels(x: Tensor, y: Tensor, classes: int) -> None:
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        raise TypeError(f"labels: expected integers, got {y.dtype if isinstance(y, Tensor) else type(y).__name__}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels: expected one for each of {len(x)} inputs, got shape {tuple(y.shape)}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ValueError(f"labels: expected 0 to {classes - 1}, got {int(y.min())} to {int(y.max())}")


def _check_epsilon(epsilon: float) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon!r}")
