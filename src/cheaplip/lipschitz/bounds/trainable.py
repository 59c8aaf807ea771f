"""An upper bound of Lip(f) to train with: differentiable in the weights and in its own multipliers."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.cuts import Part, fits, parts
from cheaplip.lipschitz.bounds.propagation import norm_product_to_train, without_constant
from cheaplip.lipschitz.bounds.written import WrittenOut
from cheaplip.lipschitz.reading.chain import Chain, read
from cheaplip.lipschitz.reading.operations import Convolution, Elementwise, Nonnegative, Reshape

__all__ = ["LipschitzBound"]

_ENTRIES = 1 << 19  # of a convolution's or a pooling's matrix, up to which writing it out in each call is cheap
_UP = 1 + 1e-12


class LipschitzBound(nn.Module):
    r"""A proved bound of a model, 2 → 2: the product of the bounds of its parts.

    Layers that fit into matrices together, such as the linear ones behind convolutions, are a part with a LipSDP bound,
    whose multipliers log T are parameters. What does not fit, or has no slopes, such as large convolutions and max
    pooling, is bounded by its norms, a residual block x + g(x) by 1 + Lip(g). Each call computes the bound anew, in
    float64, and rounds it upwards. Its gradient is that at the worst increment of each part, so that the backward pass
    costs little.

    The model is neither wrapped nor owned: its parameters and its state stay its own. Give the multipliers a group of
    their own in the optimiser, at a larger rate; a model bounded by norms alone has none. Where they are no longer
    feasible, because the weights have moved too far, they start again from the closed form.

    Args:
        model: of the layers that ``cheaplip.bracket`` knows; its present weights are read anew in every call.
        shape: of one input. None: that of the model's first linear layer.

    Raises:
        UnsupportedLayerError: a layer has no known Lipschitz constant; it is named.
        TypeError: the model is not a module.
        ValueError: the shape is not given and there is no linear layer to take it from.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> bound = LipschitzBound(model)
        >>> groups = [{"params": model.parameters(), "lr": 1e-3}, {"params": bound.parameters(), "lr": 1e-2}]
        >>> optimizer = torch.optim.Adam(groups)
        >>> x, y = torch.rand(32, 8), torch.randint(3, (32,))
        >>> for _ in range(3):
        ...     margins = model(x) / bound()  # 1-Lipschitz, whatever the weights
        ...     loss = torch.nn.functional.multi_margin_loss(margins, y, margin=0.5)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a module, got {type(model).__name__}: a plain function cannot be read")
        chain = read(model, _first_shape(model) if shape is None else shape)
        if unknown := without_constant(chain, 2):
            raise UnsupportedLayerError(f"no Lipschitz constant in norm 2 is known for layer {unknown}")
        self._bounds = [_bound(part) for part in parts(chain, {}, _is_cheap)]
        self.log_multipliers = nn.ParameterList([log for part in self._written for log in part.log_multipliers])

    @property
    def restarts(self) -> int:
        """How often multipliers started again."""
        return sum(part.restarts for part in self._written)

    def forward(self) -> Tensor:
        """The bound: a float64 scalar on the model's device; inf, without gradient, where nothing could be proved."""
        first, *others = [bound() for bound in self._bounds]
        for value in others:
            first = first * value * _UP
        return first if bool(torch.isfinite(first)) else first.new_tensor(math.inf)

    @torch.no_grad()
    def tighten_(self, seconds: float = 10.0) -> float:
        """Set the multipliers to the best for the present weights; returns the bound."""
        for part in self._written:
            part.tighten_(seconds / len(self._written))
        return float(self())

    @property
    def _written(self) -> list[WrittenOut]:
        return [bound for bound in self._bounds if isinstance(bound, WrittenOut)]


def _bound(part: Part) -> Callable[[], Tensor]:
    if part.written and _is_deep(part.chain):
        try:
            return WrittenOut(part.chain)
        except UnsupportedLayerError:  # too large once merged
            pass
    return partial(norm_product_to_train, part.chain)


def _is_deep(chain: Chain) -> bool:
    """Whether there is an activation between affine maps: only then multipliers gain on norms."""
    affine = [at for at, step in enumerate(chain.steps) if not isinstance(step.operation, Elementwise | Reshape)]
    between = chain.steps[affine[0] : affine[-1]] if affine else ()
    return any(isinstance(step.operation, Elementwise) for step in between)


def _is_cheap(piece: Chain) -> bool:
    shapes = [piece.shape, *(step.shape for step in piece.steps)]
    return fits(piece) and all(
        math.prod(shapes[step.arguments[0]]) * math.prod(step.shape) <= _ENTRIES
        for step in piece.steps
        if isinstance(step.operation, Convolution | Nonnegative) and not isinstance(step.operation, Reshape)
    )


def _first_shape(model: nn.Module) -> tuple[int, ...]:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if not list(module.children()) and list(module.parameters()):
            break
    raise ValueError(
        "shape: expected the shape of one input, as the model does not start with a linear layer: "
        "LipschitzBound(model, shape=(1, 28, 28)), for example"
    )
