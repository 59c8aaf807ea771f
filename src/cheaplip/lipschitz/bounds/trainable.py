"""An upper bound of Lip(f) to train with: differentiable in the weights and in its own multipliers."""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.bounds.cuts import Part, fits, parts
from cheaplip.lipschitz.bounds.fourier.plan import convolution_of
from cheaplip.lipschitz.bounds.fourier.trainable import TrainableFourier
from cheaplip.lipschitz.bounds.products import norm_product_to_train, without_constant
from cheaplip.lipschitz.bounds.trainable_lipsdp import TrainableLipSDP
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Convolution, Elementwise, Nonnegative, Reshape
from cheaplip.lipschitz.reading.snapshot import Snapshot
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.rounding import UP

__all__ = ["LipschitzBound"]

_ENTRIES = 1 << 19  # of a convolution's or a pooling's matrix, up to which writing it out in each call is cheap


class LipschitzBound(nn.Module):
    r"""A proved bound of a model, 2 → 2: the product of the bounds of its parts.

    Layers that fit into matrices together, such as the linear ones behind convolutions, are a part with a LipSDP bound,
    whose multipliers log T are parameters. A model with larger convolutions is one part, bounded in Fourier space with
    a multiplier for each channel. What has no slopes, such as softmax, is bounded by its norms. Each call computes
    the bound anew, in float64, and rounds it upwards.

    The model is neither wrapped nor owned: its parameters and its state stay its own. Give the multipliers a parameter
    group of their own in the optimiser, with a larger learning rate; a model bounded by norms alone has none. When they
    become infeasible, because the weights have moved too far, they are reset to a closed form.

    Args:
        model: made of layers that ``cheaplip.bracket`` knows. Its weights are read anew in every call. When anything
            else has changed since the last call, such as a layer, a hook or the ``negative_slope`` of a LeakyReLU, the
            whole model is, which takes longer. The bound is that of the model in evaluation mode.
        shape: of one input. None: taken from the model's first linear layer.

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
        self._model = (model,)  # in a tuple it does not become a submodule
        self._shape = _first_shape(model) if shape is None else tuple(shape)
        self._bounds = _bounds(model, self._shape)
        _check_hidden(model, self._shape)
        self._read = Snapshot.of(model)
        self.log_multipliers = nn.ParameterList([log for part in self._lipsdp for log in part.log_multipliers])

    @property
    def restarts(self) -> int:
        """How often multipliers became infeasible and were reset."""
        return sum(part.restarts for part in self._lipsdp)

    def forward(self) -> Tensor:
        """Compute the bound: a float64 scalar on the model's device; inf, without gradient, where nothing is proved.

        Raises:
            UnsupportedLayerError: the model has changed, and a layer has no known Lipschitz constant now.
            ValueError: the model has changed, and the multipliers do not fit it any more.
        """
        self._follow_changes()
        first, *others = [bound() for bound in self._bounds]
        for value in others:
            first = first * value * UP
        return first if bool(torch.isfinite(first)) else first.new_tensor(math.inf)

    @torch.no_grad()
    def tighten_(self, seconds: float = 10.0) -> float:
        """Set the multipliers to the best for the present weights, in about so many seconds; return the bound."""
        self._follow_changes()
        for part in self._lipsdp:
            part.tighten_(seconds / len(self._lipsdp))
        return float(self())

    def _follow_changes(self) -> None:
        """Read the model again if more than its weights has changed, and keep the multipliers, which are trained."""
        now = Snapshot.of(self._model[0])
        change = self._read.changed(now)
        if not change:
            return
        bounds = _bounds(self._model[0], self._shape)
        kinds = (TrainableLipSDP, TrainableFourier)
        anew = [log for part in bounds if isinstance(part, kinds) for log in part.log_multipliers]
        if [log.shape for log in anew] != [log.shape for log in self.log_multipliers]:
            raise ValueError(
                f"model: expected the layers that the bound was made for, but {change}: make a new LipschitzBound"
            )
        kept = iter(self.log_multipliers)
        for part in bounds:
            if isinstance(part, kinds):
                part.log_multipliers = [next(kept) for _ in part.log_multipliers]
        self._bounds, self._read = bounds, now

    @property
    def _lipsdp(self) -> list[TrainableLipSDP | TrainableFourier]:
        return [bound for bound in self._bounds if isinstance(bound, TrainableLipSDP | TrainableFourier)]


def _bounds(model: nn.Module, shape: tuple[int, ...]) -> list[Callable[[], Tensor]]:
    """Read a model, and return the functions that bound its parts."""
    chain = read(model, shape)
    if unknown := without_constant(chain, 2):
        raise UnsupportedLayerError(f"no Lipschitz constant in norm 2 is known for layer {unknown}")
    pieces = parts(chain, {}, _is_cheap)
    if any(not part.written and any(map(convolution_of, part.chain.links)) for part in pieces):
        return [TrainableFourier(chain)]
    return [_bound(part) for part in pieces]


def _check_hidden(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Read a copy without zeros where weights are zero: what stands behind those cannot be compared with the trace."""
    zeros = [name for name, weight in model.named_parameters() if not name.endswith("bias") and not bool(weight.any())]
    if not zeros:
        return
    twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in zeros:
            weight = twin.get_parameter(name)
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    read(twin, shape)


def _bound(part: Part) -> Callable[[], Tensor]:
    """Return the function that bounds a part: LipSDP where it can be written out, else its product of norms."""
    if part.written and _is_deep(part.chain):
        try:
            return TrainableLipSDP(part.chain)
        except UnsupportedLayerError:  # too large once merged
            pass
    return partial(norm_product_to_train, part.chain)


def _is_deep(chain: Chain) -> bool:
    """Return whether there is an activation between affine maps: only then LipSDP is tighter than norms."""
    affine = [at for at, link in enumerate(chain.links) if not isinstance(link.operation, Elementwise | Reshape)]
    between = chain.links[affine[0] : affine[-1]] if affine else ()
    return any(isinstance(link.operation, Elementwise) for link in between)


def _is_cheap(piece: Chain) -> bool:
    """Return whether a piece can be written out as matrices in every call."""
    shapes = piece.shapes
    return fits(piece) and all(
        math.prod(shapes[link.arguments[0]]) * math.prod(link.shape) <= _ENTRIES
        for link in piece.links
        if isinstance(link.operation, Convolution | Nonnegative) and not isinstance(link.operation, Reshape)
    )


def _first_shape(model: nn.Module) -> tuple[int, ...]:
    """Return the input shape of the first layer, if that is linear."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if not list(module.children()) and list(module.parameters()):
            break
    raise ValueError(
        "shape: expected the shape of one input, as the model does not start with a linear layer: "
        "LipschitzBound(model, shape=(1, 28, 28)), for example"
    )
