"""The reading of a model in progress: the links made so far, and what each node of the traced graph stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.chain import Link
from cheaplip.lipschitz.reading.operations import Convolution, Matrix, Nonnegative, Operation, Scaling, Weight

__all__ = ["BATCH", "Graph", "Value", "as_double", "bind", "layer_path", "refusal", "replay"]

BATCH = 5
"""Size of the batch a model is traced with: unlike 1, it is never broadcast."""

Value = int | list[int]
"""Index of a node's value among the chain's; a list for a node with several results."""


@dataclass
class Graph:
    """What has been read so far, with what is needed to read the next node.

    Attributes:
        shape: of one input.
        links: the operations so far.
        values: the value of each node that depends on the input.
        constants: for each node that does not, a function that computes it afresh from the model's weights.
    """

    shape: tuple[int, ...]
    links: list[Link] = field(default_factory=list)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    constants: dict[fx.Node, Callable[[], Any]] = field(default_factory=dict)

    def emit(self, node: fx.Node, operation: Operation, *values: int, shape: Sequence[int] | None = None) -> int:
        """Add a link and return the index of its value.

        Args:
            node: what the link stands for.
            operation: what the link does.
            values: the indices of the values that it takes.
            shape: of the result, with the batch. None: the node's.

        Raises:
            UnsupportedLayerError: the result's first dimension is not the batch.
        """
        result = tuple(node.meta["val"].shape if shape is None else shape)
        if not result or result[0] != BATCH:
            raise refusal(node, "it moves the batch from the first dimension, or reduces over it")
        operation, sources = self._fused(operation, values)
        self.links.append(Link(operation, sources, result[1:], layer_path(node)))
        return len(self.links)

    def shape_of(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value, without the batch."""
        return self.shape if value == 0 else self.links[value - 1].shape

    def live(self, node: fx.Node, argument: object) -> int:
        """Return the index of an argument's value; refuse an argument that does not depend on the input."""
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(value, int):
            raise refusal(node, "it takes a constant where a value that depends on the input was expected")
        return value

    def is_live(self, argument: object) -> bool:
        """Return whether an argument depends on the input."""
        return isinstance(argument, fx.Node) and argument in self.values

    def constant(self, node: fx.Node, argument: object) -> Weight:
        """Return a function that gives an argument in float64.

        Args:
            node: that takes the argument.
            argument: a number, or a node that does not depend on the input.

        Raises:
            UnsupportedLayerError: it is anything else.
        """
        if isinstance(argument, fx.Node):
            if argument not in self.constants:
                raise refusal(
                    node, "there is no Lipschitz constant for this operation on two values that depend on the input"
                )
            compute = self.constants[argument]
            return lambda: as_double(compute())
        if isinstance(argument, (bool, int, float)):
            return partial(torch.tensor, float(argument), dtype=torch.float64)
        raise refusal(node, f"one of its arguments is a {type(argument).__name__}")

    def one_input(self, node: fx.Node, argument: object) -> Weight:
        """As :meth:`constant`, without the dimension of the batch, so that it broadcasts to one input."""
        compute = self.constant(node, argument)
        shape: tuple[int, ...] = argument.meta["val"].shape if isinstance(argument, fx.Node) else ()
        if len(shape) < len(node.meta["val"].shape):
            return compute
        if len(shape) > len(node.meta["val"].shape) or shape[0] != 1:
            raise refusal(node, "it treats the inputs of a batch differently")
        return lambda: compute().squeeze(0)

    def broadcast(self, node: fx.Node, value: int) -> int:
        """Expand a value to the node's shape, where it has another; return the index of the result."""
        shape = tuple(node.meta["val"].shape[1:])
        if self.shape_of(value) == shape:
            return value
        if len(self.shape_of(value)) != len(shape):
            raise refusal(node, "it broadcasts across the batch")
        return self.emit(node, Nonnegative(lambda x: x.expand(len(x), *shape)), value)

    def _fused(self, operation: Operation, sources: tuple[int, ...]) -> tuple[Operation, tuple[int, ...]]:
        """Fold a scaling, such as batch norm, into the layer before it; the layer's own link stays for other users."""
        first = next(iter(sources), 0)
        if not isinstance(operation, Scaling) or first == 0:
            return operation, sources
        before = self.links[first - 1]
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
        return replace(layer, weight=weight, bias=bias if has_bias else None), before.arguments


def layer_path(node: fx.Node) -> str:
    """Return the path, in the model, of the layer that a node belongs to."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].partition("@")[0] if stack else ""


def refusal(node: fx.Node, reason: str) -> UnsupportedLayerError:
    """Make the error for a node: its layer's path and type, the operation, the reason, and what is supported."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    kind = stack[-1][1] if stack else "module"
    kind = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    return UnsupportedLayerError(
        f"layer {layer_path(node) or 'model'!r} ({kind}, {str(node.target).removesuffix('.default')}) is not "
        f"supported: {reason}. Supported: linear and convolution layers, average and max pooling, batch norm in "
        "evaluation mode, reshaping, residual sums, elementwise activations, sorting, softmax, dropout in evaluation "
        "mode; a layer of your own after cheaplip.lipschitz.register_layer"
    )


def bind(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by name, defaults included."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in arguments if a.name not in node.kwargs}
    given.update((a.name, value) for a, value in zip(arguments, node.args, strict=False))
    return {**given, **node.kwargs}


def replay(node: fx.Node) -> Callable[[Tensor], Any]:
    """Return the node as a function of its first argument; the others must be plain values."""
    for argument in (*node.args[1:], *node.kwargs.values()):
        if isinstance(argument, fx.Node):
            raise refusal(node, "its options are tensors")
    target, args, kwargs = node.target, node.args[1:], node.kwargs
    assert callable(target)
    return lambda x: target(x, *args, **kwargs)


def as_double(value: Any) -> Any:
    """Convert a floating-point tensor to float64; return anything else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
