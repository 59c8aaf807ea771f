"""The reading of a model in progress: the links made so far, and what each node of the traced graph stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.chain import Link, Whole
from cheaplip.lipschitz.reading.fusing import simplified
from cheaplip.lipschitz.reading.operations import Nonnegative, Operation, Weight

__all__ = [
    "BATCH",
    "RANDOM",
    "Graph",
    "Scattered",
    "Value",
    "as_double",
    "bind",
    "is_random",
    "layer_path",
    "refusal",
    "replay",
]

BATCH = 5
"""Size of the batch a model is traced with: unlike 1, it is never broadcast."""

RANDOM = "two calls on the same input differ"
"""What makes a random layer impossible to read, for messages."""

Value = int | list[int]
"""Index of a node's value among the chain's; a list for a node with several results."""


class Scattered(NamedTuple):
    """A node's value whose first dimension is not the batch: entries of another value, which has the batch first.

    Attributes:
        value: the index of that value.
        places: for each entry of the node, its place among all entries of the value, for a whole batch.
        error: says that the batch must be the first dimension.
    """

    value: int
    places: Tensor
    error: UnsupportedLayerError


@dataclass
class Graph:
    """What has been read so far, with what is needed to read the next node.

    Attributes:
        shape: of one input.
        links: the operations so far.
        values: the value of each node that depends on the input.
        constants: for each node that does not, a function that computes it afresh from the model's weights.
        device: of the weights.
        pairs: the sorted pairs that have been made, so that a maximum and a minimum share them; see ``paired.py``.
        scattered: the nodes whose first dimension is not the batch; see ``scattered.py``.
    """

    shape: tuple[int, ...]
    links: list[Link] = field(default_factory=list)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    constants: dict[fx.Node, Callable[[], Any]] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    pairs: dict[tuple[int, ...], int] = field(default_factory=dict)
    scattered: dict[fx.Node, Scattered | list[int | Scattered]] = field(default_factory=dict)

    def emit(
        self,
        node: fx.Node,
        operation: Operation,
        *values: int,
        shape: Sequence[int] | None = None,
        whole: Whole | None = None,
    ) -> int:
        """Add a link and return the index of its value.

        Args:
            node: what the link stands for.
            operation: what the link does.
            values: the indices of the values that it takes.
            shape: of the result, with the batch. None: the node's.
            whole: the map that the link completes.

        Raises:
            UnsupportedLayerError: the result's first dimension is not the batch, or it is not real.
        """
        made = node.meta["val"]
        if isinstance(made, Tensor) and not made.is_floating_point():
            raise refusal(node, f"its result is {str(made.dtype).removeprefix('torch.')}, not real numbers")
        result = tuple(node.meta["val"].shape if shape is None else shape)
        if not result or result[0] != BATCH:
            raise refusal(node, "it moves the batch from the first dimension, or reduces over it")
        operation, sources = simplified(self.shape, self.links, operation, values)
        self.links.append(Link(operation, sources, result[1:], layer_path(node), whole))
        return len(self.links)

    def shape_of(self, value: int) -> tuple[int, ...]:
        """Return the shape of a value, without the batch."""
        return self.shape if value == 0 else self.links[value - 1].shape

    def live(self, node: fx.Node, argument: object) -> int:
        """Return the index of an argument's value; refuse an argument that does not depend on the input."""
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        moved = self.scattered.get(argument) if isinstance(argument, fx.Node) else None
        if isinstance(moved, Scattered):
            raise moved.error
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

    def one_input(self, node: fx.Node, argument: object, rank: int | None = None) -> Weight:
        """As :meth:`constant`, without the dimension of the batch, so that it broadcasts to one input.

        Args:
            rank: of a batch of inputs; None: of the node's result.
        """
        compute = self.constant(node, argument)
        rank = len(node.meta["val"].shape) if rank is None else rank
        shape: tuple[int, ...] = argument.meta["val"].shape if isinstance(argument, fx.Node) else ()
        if len(shape) < rank:
            return compute
        if len(shape) > rank:
            raise refusal(node, "one of its arguments has more dimensions than a batch of inputs")
        if shape[0] == BATCH:  # made for as many inputs as there are, such as torch.ones(len(x), 4)
            rows = compute()
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise refusal(node, "its constant has a row for each input of the batch, and treats them differently")
            return lambda: compute()[0]
        return lambda: compute().squeeze(0)

    def broadcast(self, node: fx.Node, value: int) -> int:
        """Expand a value to the node's shape, where it has another; return the index of the result."""
        shape = tuple(node.meta["val"].shape[1:])
        if self.shape_of(value) == shape:
            return value
        if len(self.shape_of(value)) != len(shape):
            raise refusal(node, "it broadcasts across the batch")
        return self.emit(node, Nonnegative(lambda x: x.expand(len(x), *shape)), value)


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
        f"supported: {reason}. Supported: linear, convolution and pooling layers, normalisation, batch norm in "
        "evaluation mode, reshaping, residual sums, elementwise activations, sorting, maxima, softmax, attention and "
        "products on bounded domains, dropout in evaluation mode (docs/layers.md lists them all); a layer of your own "
        "after cheaplip.lipschitz.register_layer"
    )


def is_random(node: fx.Node) -> bool:
    """Return whether a node draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


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
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if torch.compiler.is_compiling():  # which cannot ask whether a tensor was made in inference mode
        return value.double()
    return (value.clone() if value.is_inference() and not torch.is_inference_mode_enabled() else value).double()
