"""Evaluate pairs in a user's model: switch its modes and back, and find layers that mix the inputs of a batch.

Pairs need evaluation mode, or at least no dropout, and the model must be left as it was. Where pairs share a pass with
a batch, layers that mix the two are refused, with an error that names the layer.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from cheaplip.errors import BatchDependentLayerError, ModelError
from cheaplip.model import Model
from cheaplip.quotient import at_least_float32

__all__ = [
    "check_independent_rows",
    "check_repeatable",
    "dropout_off",
    "evaluation_mode",
    "has_dropout",
    "refuse_batch_dependent_layers",
]

_SUSPECTS = (_BatchNorm, _InstanceNorm, nn.MultiheadAttention, nn.RNNBase, _DropoutNd)

_REMEDY = "use clip(model), which gives the pairs a pass of their own, instead of clip.joint(model, x)"


class evaluation_mode:  # noqa: N801 - a function to its users; torch.compile of 2.6 cannot trace generators
    """Put a model in evaluation mode while the block lasts, and each submodule back in its own mode afterwards.

    A plain function has no modes to change: put what it calls in evaluation mode yourself.

    Args:
        model: the model.
        kind: the class of submodules to put in evaluation mode.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluation_mode(model):
        ...     model.training
        False
        >>> model.training
        True
    """

    def __init__(self, model: Model, kind: type[nn.Module] = nn.Module) -> None:
        modules = model.modules() if isinstance(model, nn.Module) else ()
        self.modules = [module for module in modules if isinstance(module, kind)]
        self.modes = [module.training for module in self.modules]

    def __enter__(self) -> None:
        for module in self.modules:
            module.training = False

    def __exit__(self, *_: object) -> None:
        for module, mode in zip(self.modules, self.modes, strict=True):
            module.training = mode


@contextmanager
def dropout_off(model: Model, first: int, rows: int) -> Iterator[None]:
    """Let some rows of a batch pass through active dropout modules unchanged, while the block lasts.

    Args:
        model: the model.
        first: the first of the rows without dropout; all that follow have none, either.
        rows: the size of the batch.
    """

    def keep_rows(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        if len(output) != rows:
            raise BatchDependentLayerError(
                f"a {type(module).__name__} layer works on a tensor {tuple(output.shape)} whose first dimension is not "
                f"the batch of {rows}, so it cannot be switched off for pairs alone: {_REMEDY}"
            )
        given = args[0] if args else kwargs["input"]
        return torch.cat([output[:first], given[first:]])

    with ExitStack() as hooks:
        for module in model.modules() if isinstance(model, nn.Module) else ():
            if isinstance(module, _DropoutNd) and module.training and module.p > 0 and not module.inplace:
                hooks.callback(module.register_forward_hook(keep_rows, with_kwargs=True).remove)
        yield


def has_dropout(model: Model) -> bool:
    """Tell whether a dropout module is active."""
    return isinstance(model, nn.Module) and any(
        isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in model.modules()
    )


def refuse_batch_dependent_layers(model: Model) -> None:
    """Raise if a layer of a known type, in its present mode, would let pairs and batch influence each other.

    Raises:
        BatchDependentLayerError: names the layer, its type and the remedy.
    """
    if not isinstance(model, nn.Module) or not any(isinstance(module, _SUSPECTS) for module in model.modules()):
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            reason = "takes its statistics from the whole batch"
        elif isinstance(module, _InstanceNorm) and module.training and module.track_running_stats:
            reason = "keeps running statistics, which pairs would enter"
        elif isinstance(module, nn.MultiheadAttention) and module.training and module.dropout > 0:
            reason = "drops attention weights inside, where it cannot be switched off for pairs alone"
        elif isinstance(module, nn.RNNBase) and module.training and module.dropout > 0 and module.num_layers > 1:
            reason = "drops activations inside, where it cannot be switched off for pairs alone"
        elif isinstance(module, _DropoutNd) and module.training and module.p > 0 and module.inplace:
            reason = "drops activations in place, where it cannot be switched off for pairs alone"
        else:
            continue
        raise BatchDependentLayerError(f"layer {name or 'model'!r} ({type(module).__name__}) {reason}: {_REMEDY}")


@torch.no_grad()
def check_independent_rows(model: Model, z: Tensor) -> None:
    """Raise if, with dropout modules off, the output for the last of the inputs ``z`` depends on the others.

    This finds what :func:`refuse_batch_dependent_layers` cannot know by type: a hand-written normalisation, a recurrent
    layer that takes the batch for time, dropout as a function.

    Raises:
        BatchDependentLayerError: names the first layer whose output differs.
        ModelError: the model is random in evaluation mode, too.
    """
    with _undisturbed(model, z), evaluation_mode(model, _DropoutNd):
        alone, names = _last_rows(model, z[-1:])
        again, _ = _last_rows(model, z[-1:])
        together, _ = _last_rows(model, z)
    if (name := _first_difference(names, alone, again)) is not None:
        check_repeatable(model, z)
        raise BatchDependentLayerError(
            f"layer {name}: two calls on the same input differ, so it is random in its present mode: {_REMEDY}"
        )
    if (name := _first_difference(names, alone, together)) is not None:
        raise BatchDependentLayerError(
            f"layer {name}: its output for an input depends on the rest of the batch: {_REMEDY}"
        )


@torch.no_grad()
def check_repeatable(model: Model, z: Tensor) -> None:
    """Raise if, in evaluation mode, two calls on the last of the inputs ``z`` differ.

    Such a model has no Lipschitz constant: even u = v may have different outputs.

    Raises:
        ModelError: names the first layer whose output differs.
    """
    with _undisturbed(model, z), evaluation_mode(model):
        once, names = _last_rows(model, z[-1:])
        again, _ = _last_rows(model, z[-1:])
    if (name := _first_difference(names, once, again)) is not None:
        raise ModelError(
            f"layer {name}: two calls on the same input differ in evaluation mode, so nothing can be measured: let it "
            "draw random numbers in training only, as torch.nn.functional.dropout(x, p, self.training) does"
        )


@contextmanager
def _undisturbed(model: Model, z: Tensor) -> Iterator[None]:
    """Leave buffers and random states as they were before the block, and compute in full precision inside."""
    devices = [z.device] if z.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        _buffers_restored(model),
        torch.autocast(z.device.type, enabled=False),
    ):
        yield


def _first_difference(names: list[str], rows: list[Tensor], others: list[Tensor]) -> str | None:
    """Name the first layer whose outputs differ by more than rounding. None: there is none."""
    for name, one, other in zip(names, rows, others, strict=False):
        size = torch.maximum(one.abs().max(), other.abs().max()) if one.shape == other.shape and one.numel() else None
        if size is not None and bool((one - other).abs().max() > 1e-3 * size):
            return name
    return None


@contextmanager
def _buffers_restored(model: Model) -> Iterator[None]:
    """Undo what forward passes do to buffers, such as the power iteration of ``spectral_norm``, after the block."""
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    before = [(buffer.clone(), buffer._version) for buffer in buffers]
    try:
        yield
    finally:
        for buffer, (value, version) in zip(buffers, before, strict=True):
            if buffer._version != version:  # writing a buffer needlessly would spoil a backward pass that has saved it
                buffer.copy_(value)


def _last_rows(model: Model, z: Tensor) -> tuple[list[Tensor], list[str]]:
    """The last row of each submodule's output, in the order they run, and the submodules' names."""
    rows: list[Tensor] = []
    names: list[str] = []
    with ExitStack() as hooks:

        def record(name: str, kind: str) -> Callable[[nn.Module, object, object], None]:
            def hook(_module: nn.Module, _args: object, output: object) -> None:
                if isinstance(output, Tensor) and output.dim() > 0 and len(output) == len(z):
                    rows.append(at_least_float32(output[-1].detach()).clone())
                    names.append(f"{name!r} ({kind})")

            return hook

        for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
            hooks.callback(module.register_forward_hook(record(name or "model", type(module).__name__)).remove)
        output = model(z.clone())  # a model may write into its input
        if not isinstance(model, nn.Module) and isinstance(output, Tensor) and output.dim() > 0:
            rows.append(at_least_float32(output[-1].detach()).clone())
            names.append("'model' (function)")
    return rows, names
