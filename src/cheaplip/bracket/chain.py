"""A model read as affine maps and slope ranges; what cannot be read is refused by path and type, never skipped."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cheaplip.bracket.layers import operations_of
from cheaplip.bracket.operations import Elementwise, Matrix, Operation
from cheaplip.errors import UnsupportedLayerError

__all__ = ["Chain", "Step", "read"]


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


@dataclass(frozen=True)
class Chain:
    """A model as a program of known operations; it refers to the model's weights and follows their changes.

    Attributes:
        shape: of one input.
        steps: in order; the last one's value is the output.
        device: of the weights.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate, in the type of ``x``: equal to the model up to rounding, for inputs (B, *shape)."""
        values = [x]
        for step in self.steps:
            values.append(step.operation(*(values[i] for i in step.arguments)))
        return values[-1]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one output."""
        return self.steps[-1].shape if self.steps else self.shape

    def dense(
        self, ranges: Mapping[int, tuple[Tensor, Tensor]] | None = None, *, limit: int = 1 << 24
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The chain as f = W_L φ(… φ(W_1 x)), adjacent affine maps merged, constants left out.

        Values that pass an activation by, in a residual block, become neurons with slopes (1, 1).

        Args:
            ranges: narrower slopes of some activations, by the index of their step, each of the step's shape.
            limit: most entries a matrix may have.

        Returns:
            Weights W_1 … W_L, each (n_out, n_in) float64 and differentiable in the model's parameters; and for each
            hidden layer 1 … L−1 the smallest and the largest slope of each neuron, (n,) float64. A chain that ends in
            an activation ends with the identity as W_L.

        Raises:
            UnsupportedLayerError: an operation is neither affine nor elementwise, or a matrix would be too large.
        """
        ranges = ranges or {}
        last_use = {i: at for at, step in enumerate(self.steps) for i in step.arguments}
        last_use[len(self.steps)] = len(self.steps)
        width = math.prod(self.shape)
        state: dict[int, Tensor | None] = {0: None}  # each live value's matrix from the layer's input; None: identity
        shapes = [self.shape, *(step.shape for step in self.steps)]
        weights, slopes = [], []
        for at, step in enumerate(self.steps):
            if isinstance(step.operation, Elementwise):
                (source,) = step.arguments
                kept = [i for i in state if last_use[i] > at]
                rows = [self._rows(state[i], width) for i in (source, *kept)]
                sizes = [len(r) for r in rows]
                _check_size(step, sum(sizes) * width, limit)
                weights.append(rows[0] if len(rows) == 1 else torch.cat(rows))
                low, high = ranges.get(at) or self._slopes(step)
                passed = torch.ones(sum(sizes[1:]), dtype=torch.float64, device=self.device)
                slopes.append((torch.cat([low.flatten(), passed]), torch.cat([high.flatten(), passed])))
                width = sum(sizes)
                if kept:
                    eye = torch.eye(width, dtype=torch.float64, device=self.device)
                    state = dict(zip((at + 1, *kept), torch.split(eye, sizes), strict=True))
                else:
                    state = {at + 1: None}
                continue
            linear = getattr(step.operation, "linear", None)
            if linear is None:
                raise UnsupportedLayerError(
                    f"layer {step.path!r} ({type(step.operation).__name__}) is neither affine nor elementwise, so the "
                    "model cannot be written as matrices and slopes"
                )
            _check_size(step, math.prod(step.shape) * width, limit)
            if isinstance(step.operation, Matrix) and state[step.arguments[0]] is None and len(step.shape) == 1:
                state[at + 1] = step.operation.weight().double()
            else:
                columns = [self._columns(state[i], width, shapes[i]) for i in step.arguments]
                state[at + 1] = linear(*columns).reshape(width, -1).T
            for i in [i for i in state if last_use.get(i, -1) <= at and i != at + 1]:
                del state[i]
        weights.append(self._rows(state[len(self.steps)], width))
        return weights, slopes

    def _rows(self, matrix: Tensor | None, width: int) -> Tensor:
        return torch.eye(width, dtype=torch.float64, device=self.device) if matrix is None else matrix

    def _columns(self, matrix: Tensor | None, width: int, shape: tuple[int, ...]) -> Tensor:
        return self._rows(matrix, width).T.reshape(width, *shape)

    def _slopes(self, step: Step) -> tuple[Tensor, Tensor]:
        assert isinstance(step.operation, Elementwise)
        low, high = step.operation.activation.slopes
        full = torch.ones(math.prod(step.shape), dtype=torch.float64, device=self.device)
        return low * full, high * full


def _check_size(step: Step, entries: int, limit: int) -> None:
    if entries > limit:
        raise UnsupportedLayerError(
            f"layer {step.path!r} ({type(step.operation).__name__}) would need a matrix of {entries} entries, more "
            f"than the limit of {limit}: bound it by norms (method='norms')"
        )


def read(model: nn.Module, shape: tuple[int, ...]) -> Chain:
    """Read a model into a chain, from its containers.

    Args:
        model: in evaluation mode, one tensor (B, *shape) in, one tensor out.
        shape: of one input.

    Raises:
        UnsupportedLayerError: names the layer that is not known, its type, and what is supported.
    """
    shape = tuple(shape)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    steps: list[Step] = []
    x = torch.zeros(2, *shape, dtype=torch.float64, device=device)
    with torch.no_grad():
        for path, operation in operations_of(model, ""):
            x = operation(x)
            steps.append(Step(operation, (len(steps),), tuple(x.shape[1:]), path))
    return Chain(shape, tuple(steps), device)
