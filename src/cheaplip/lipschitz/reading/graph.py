"""A model's graph, as torch.export sees it, turned into operations one node at a time."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.operations import (
    Convolution,
    Matrix,
    Nonnegative,
    Operation,
    Scaling,
    Weight,
)
from cheaplip.modes import evaluation_mode

__all__ = [
    "BATCH",
    "Graph",
    "Step",
    "Value",
    "bind",
    "constant",
    "export",
    "layer_path",
    "placeholders",
    "refusal",
    "replay",
]

BATCH = 5
"""Inputs in the batch a model is traced with: unlike 1, never broadcast."""


@dataclass(frozen=True)
class Step:
    """One operation: value ``i + 1`` of a chain is what step ``i`` makes of earlier values (0 is the input).

    Attributes:
        operation: what it does.
        arguments: the values it takes.
        shape: of its result, without the batch.
        path: of the layer in the model.
    """

    operation: Operation
    arguments: tuple[int, ...]
    shape: tuple[int, ...]
    path: str


Value = int | list[int]
"""Where a node's value is among the chain's; a list for a node with several results."""


@dataclass
class Graph:
    """What has been read so far, with the means to read the next node.

    Attributes:
        shape: of one input.
        steps: the operations so far.
        values: of the nodes that depend on the input.
        constants: of the nodes that do not, each computed afresh from the model's weights whenever it is asked for.
    """

    shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    constants: dict[fx.Node, Callable[[], Any]] = field(default_factory=dict)

    def emit(self, node: fx.Node, operation: Operation, *values: int, shape: Sequence[int] | None = None) -> int:
        """Add a step, of the node's own shape (with its batch) unless told; returns where its value is."""
        result = tuple(node.meta["val"].shape if shape is None else shape)
        if not result or result[0] != BATCH:
            raise refusal(node, "it moves the batch from the first dimension, or reduces over it")
        operation, sources = self._fused(operation, values)
        self.steps.append(Step(operation, sources, result[1:], layer_path(node)))
        return len(self.steps)

    def shape_of(self, value: int) -> tuple[int, ...]:
        """Of a value, without the batch."""
        return self.shape if value == 0 else self.steps[value - 1].shape

    def live(self, node: fx.Node, argument: object) -> int:
        """Where an argument's value is; refuses constants."""
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, int):
            raise refusal(node, "it takes a constant where an activation was expected")
        return value

    def is_live(self, argument: object) -> bool:
        return isinstance(argument, fx.Node) and argument in self.values

    def constant(self, node: fx.Node, argument: object) -> Weight:
        """A number or tensor that does not depend on the input, in float64."""
        if isinstance(argument, fx.Node):
            if argument not in self.constants:
                raise refusal(node, "it combines two activations in a way that has no Lipschitz constant")
            compute = self.constants[argument]
            return lambda: _double(compute())
        if isinstance(argument, (bool, int, float)):
            return partial(torch.tensor, float(argument), dtype=torch.float64)
        raise refusal(node, f"it takes a {type(argument).__name__}")

    def one_input(self, node: fx.Node, argument: object) -> Weight:
        """A constant that broadcasts to one input: without the batch's dimension."""
        compute = self.constant(node, argument)
        shape: tuple[int, ...] = argument.meta["val"].shape if isinstance(argument, fx.Node) else ()
        if len(shape) < len(node.meta["val"].shape):
            return compute
        if len(shape) > len(node.meta["val"].shape) or shape[0] != 1:
            raise refusal(node, "it treats the inputs of a batch differently")
        return lambda: compute().squeeze(0)

    def broadcast(self, node: fx.Node, value: int) -> int:
        """The value, expanded to the node's shape."""
        shape = tuple(node.meta["val"].shape[1:])
        if self.shape_of(value) == shape:
            return value
        if len(self.shape_of(value)) != len(shape):
            raise refusal(node, "it broadcasts across the batch")
        return self.emit(node, Nonnegative(lambda x: x.expand(len(x), *shape)), value)

    def _fused(self, operation: Operation, sources: tuple[int, ...]) -> tuple[Operation, tuple[int, ...]]:
        """Batch norm and the like folded into the layer before; the unfused one stays where others use it."""
        first = next(iter(sources), 0)
        if not isinstance(operation, Scaling) or first == 0:
            return operation, sources
        before = self.steps[first - 1]
        layer, scaling = before.operation, operation
        out = before.shape[-1] if isinstance(layer, Matrix) else before.shape[0]
        spatial = () if isinstance(layer, Matrix) else (1,) * (len(before.shape) - 1)
        if not isinstance(layer, (Matrix, Convolution)) or any(
            part is not None and tuple(part().shape) not in ((), (1,), (out, *spatial))
            for part in (scaling.scale, scaling.bias)
        ):
            return operation, sources

        def weight() -> Tensor:
            own = layer.weight()
            return own * scaling.scale().reshape(-1, *[1] * (own.dim() - 1))

        def bias() -> Tensor:
            shift = torch.zeros((), dtype=torch.float64) if layer.bias is None else layer.bias()
            shift = shift.to(scaling.scale().device) * scaling.scale()
            return shift if scaling.bias is None else shift + scaling.bias()

        has_bias = layer.bias is not None or scaling.bias is not None
        fused = _replace(layer, weight, bias if has_bias else None)
        return fused, before.arguments


def _replace(layer: Matrix | Convolution, weight: Weight, bias: Weight | None) -> Matrix | Convolution:
    if isinstance(layer, Matrix):
        return Matrix(weight, bias)
    return Convolution(weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups, circular=layer.circular)


def layer_path(node: fx.Node) -> str:
    """Path of the layer that a node belongs to, in the model."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].partition("@")[0] if stack else ""


def refusal(node: fx.Node, reason: str) -> UnsupportedLayerError:
    """The error for a node: its layer's path and type, the operation, the reason, and what is supported."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    kind = stack[-1][1] if stack else "module"
    kind = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    return UnsupportedLayerError(
        f"layer {layer_path(node) or 'model'!r} ({kind}, {str(node.target).removesuffix('.default')}) is not "
        f"supported: {reason}. Supported: linear and convolution layers, average and max pooling, batch norm in "
        "evaluation mode, reshaping, residual sums, elementwise activations, sorting, softmax, dropout in evaluation "
        "mode; a layer of your own after cheaplip.lipschitz.reading.chain.register_layer"
    )


def export(model: nn.Module, shape: tuple[int, ...], like: Tensor) -> torch.export.ExportedProgram:
    """Trace the model in evaluation mode; restores its modes.

    Raises:
        UnsupportedLayerError: tracing failed; says why.
    """
    x = torch.zeros(BATCH, *shape, dtype=like.dtype, device=like.device)
    with evaluation_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its internals
        try:
            program: torch.export.ExportedProgram = torch.export.export(model, (x,), strict=False)
            functional: torch.export.ExportedProgram = program.run_decompositions({})
            return functional
        except Exception as error:  # torch.export fails with errors of many types, and with those of the model's code
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UnsupportedLayerError(
                f"model ({type(model).__name__}) cannot be traced: {reason}. Expected a forward without control flow "
                f"that depends on the input's values, for inputs of shape (B, {', '.join(map(str, shape))})"
            ) from error


def placeholders(program: torch.export.ExportedProgram, model: nn.Module) -> dict[str, Callable[[], Any]]:
    """What each placeholder of the graph but the input stands for, read from the model when asked."""
    signature = program.graph_signature
    found: dict[str, Callable[[], Any]] = {}
    for name, path in signature.inputs_to_parameters.items():
        found[name] = partial(model.get_parameter, path)
    for name, path in signature.inputs_to_buffers.items():
        found[name] = partial(model.get_buffer, path)
    for name, path in signature.inputs_to_lifted_tensor_constants.items():
        found[name] = partial(program.constants.__getitem__, path)
    return found


def constant(node: fx.Node, known: dict[fx.Node, Callable[[], Any]]) -> Callable[[], Any]:
    """A node that does not depend on the input: computed when asked for, floating-point tensors in float64."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise refusal(node, "it is random")

    def compute() -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _double(known[n]()))
        assert callable(node.target)
        return node.target(*args, **kwargs)

    return compute


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def bind(node: fx.Node) -> dict[str, Any]:
    """A node's arguments by name, defaults included."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in arguments if a.name not in node.kwargs}
    given.update((a.name, value) for a, value in zip(arguments, node.args, strict=False))
    return {**given, **node.kwargs}


def replay(node: fx.Node) -> Callable[[Tensor], Any]:
    """The node as a function of its first argument; the others must be plain values."""
    for argument in (*node.args[1:], *node.kwargs.values()):
        if isinstance(argument, fx.Node):
            raise refusal(node, "its options are tensors")
    target, args, kwargs = node.target, node.args[1:], node.kwargs
    assert callable(target)
    return lambda x: target(x, *args, **kwargs)
