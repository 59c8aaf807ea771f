"""Does a chain compute what its model computes? The check that makes reading sound.

A trace sees one run of a model's code. What the code does in others, for another number of inputs, in another type, or
while gradients are recorded, is compared on random inputs.
"""

import math

import torch
from torch import Tensor, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Scaling
from cheaplip.model import call_on_copy, in_float64
from cheaplip.modes import evaluation_mode

__all__ = ["check_agreement", "check_weights_stay"]

_BATCHES = (1, 2, 5)
_VALUES = 1 << 20  # about the most activations that the largest batch has
_MOST, _LEAST = 1024, 8  # inputs in the largest batch
_EXACT = 1e-5  # relative to the spread of the outputs, in float64: a model may hold constants in float32
_ROUNDING = 1e-10  # relative to the outputs, in float64


@torch.no_grad()
def check_weights_stay(model: nn.Module, x: Tensor) -> None:
    r"""Refuse a model whose forward gives a weight new data: traced, it would be left with data that do not exist.

    Args:
        model: left as it was.
        x: inputs to call it with, (B, \*input).

    Raises:
        UnsupportedLayerError: names the weight.
    """
    before = {name: (t, t.data_ptr(), t.detach()) for name, t in (*model.named_parameters(), *model.named_buffers())}
    with evaluation_mode(model), torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        try:
            call_on_copy(model, x)
        except Exception:  # whoever reads or calls the model next says so
            return
    after = dict((*model.named_parameters(), *model.named_buffers()))
    moved = [name for name, (t, at, _) in before.items() if after.get(name) is not t or t.data_ptr() != at]
    for name in moved:
        before[name][0].data = before[name][2]
    if moved or after.keys() != before.keys():
        names = moved or sorted(after.keys() ^ before.keys())
        raise UnsupportedLayerError(
            f"model ({type(model).__name__}): expected a forward that leaves the weights alone, but it assigns "
            f"{names[0]!r} anew: compute the weight in a parametrization, or constrain it after the optimiser's step"
        )


@torch.no_grad()
def check_agreement(chain: Chain, model: nn.Module, like: Tensor) -> None:
    """Refuse a model that its chain does not reproduce: one with state, randomness or branches that tracing cannot see.

    The chain is evaluated in float64. The model is called for 1, 2, 5 and many inputs in its own type, and for 5 in
    float64 with gradients recorded.

    Args:
        chain: what was read.
        model: what it was read from; left as it was.
        like: a tensor of the type and on the device of the model's weights.

    Raises:
        UnsupportedLayerError: the outputs differ, which says in which of the runs; or a weight is not finite.
    """
    width = sum(math.prod(shape) for shape in chain.shapes)
    rows = max(_LEAST, min(_MOST, _VALUES // max(1, width)))
    x = torch.randn(rows, *chain.shape, generator=torch.Generator().manual_seed(0)).to(like)
    got = chain(x.double())
    _check_finite(chain, everything=not bool(torch.isfinite(got).all()))
    for count in (*_BATCHES, rows):
        try:
            with evaluation_mode(model):
                found = call_on_copy(model, x[:count])
        except Exception as error:
            raise UnsupportedLayerError(
                f"model ({type(model).__name__}) cannot take a batch of {count}, though it takes one of 5: {error}"
            ) from error
        _compare(got[:count], found, model, f"for a batch of {count}")
    exact, z = in_float64(model), x[: _BATCHES[-1]].double()
    try:
        with torch.enable_grad(), evaluation_mode(exact):
            found = call_on_copy(exact, z.requires_grad_()).detach()
    except Exception:  # torch raises errors of many types where a model is made for one type alone
        return
    _compare(got[: len(z)], found, model, "in float64, with gradients recorded")


def _check_finite(chain: Chain, *, everything: bool) -> None:
    """Refuse a weight that is not finite: of the scalings, whose weights are often constants, or of all links."""
    for link in chain.links:
        operation = link.operation
        parts = [getattr(operation, name, None) for name in ("scale", "weight", "bias")]
        if not everything and not isinstance(operation, Scaling):
            continue
        if not all(bool(torch.isfinite(part()).all()) for part in parts if part is not None):
            raise UnsupportedLayerError(
                f"layer {link.path or 'model'!r} has a weight or constant that is NaN or infinite: expected finite "
                "numbers"
            )


def _compare(got: Tensor, expected: Tensor, model: nn.Module, case: str) -> None:
    if got.shape == expected.shape and got.numel():
        sizes = expected.abs().double().nan_to_num(1.0, posinf=1.0)
        if expected.dtype == torch.float64:
            spread = (expected - expected[:1]).abs().nan_to_num(1.0, posinf=1.0)
            allowed = _EXACT * spread.amax() + _ROUNDING * sizes.amax()
        else:
            allowed = math.sqrt(torch.finfo(expected.dtype).eps) * (sizes + sizes.amax())
        apart = (got - expected).abs()
        same = (apart <= allowed) | (got == expected) | (got.isnan() & expected.isnan())
        if bool(same.all()):
            return
    elif got.shape == expected.shape:
        return
    raise UnsupportedLayerError(
        f"model ({type(model).__name__}) does not compute what its traced graph computes, {case}: expected a forward "
        "whose result for an input depends on that input and the weights alone, without branches on the batch's size, "
        "the type or the mode of torch"
    )
