"""A model as data: a chain of known operations that refers to the model's weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.operations import Elementwise, Matrix, Operation, Reshape

__all__ = ["Chain", "Link", "SlopeRanges", "check_chain_norm"]

SlopeRanges = Mapping[int, tuple[Tensor, Tensor]]
"""Smallest and largest slope of each entry of some activations, each of the link's shape, by the index of the link."""


@dataclass(frozen=True)
class Link:
    """One operation of a chain.

    Value 0 of a chain is its input; link ``i`` makes value ``i + 1`` from earlier values.

    Attributes:
        operation: what it does.
        arguments: the indices of the values that it takes.
        shape: of its result, without the batch.
        path: of the layer in the model.
    """

    operation: Operation
    arguments: tuple[int, ...]
    shape: tuple[int, ...]
    path: str


@dataclass(frozen=True)
class Chain:
    """A model as a sequence of known operations; it refers to the model's weights and follows their changes.

    Attributes:
        shape: of one input.
        links: the operations in order; the value of the last one is the output.
        device: of the weights.
    """

    shape: tuple[int, ...]
    links: tuple[Link, ...]
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate inputs (B, *shape) in the type of ``x``: equal to the model up to rounding."""
        values = [x]
        for link in self.links:
            values.append(link.operation(*(values[i] for i in link.arguments)))
        return values[-1]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each value, the input first, without the batch."""
        return [self.shape, *(link.shape for link in self.links)]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one output."""
        return self.shapes[-1]

    @property
    def last_use(self) -> dict[int, int]:
        """For each value that some link takes, the index of the last such link."""
        return {i: at for at, link in enumerate(self.links) for i in link.arguments}

    def dense(
        self, ranges: SlopeRanges | None = None, *, limit: int = 1 << 24
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Write the chain as f = W_L φ(… φ(W_1 x)), with adjacent affine maps merged and constants left out.

        Values that bypass an activation, as in a residual block, become neurons with slopes (1, 1).

        Args:
            ranges: narrower slopes of some activations.
            limit: most entries a matrix may have.

        Returns:
            Weights W_1 … W_L, each (n_out, n_in) float64 and differentiable in the model's parameters; and for each
            hidden layer 1 … L−1 the smallest and the largest slope of each neuron, (n,) float64. A chain that ends in
            an activation ends with the identity as W_L.

        Raises:
            UnsupportedLayerError: an operation is neither affine nor elementwise, or a matrix would be too large.
        """
        ranges = ranges or {}
        last_use = {**self.last_use, len(self.links): len(self.links)}
        width = math.prod(self.shape)
        state: dict[int, Tensor | None] = {0: None}  # each live value's matrix from the layer's input; None: identity
        shapes = self.shapes
        weights, slopes = [], []
        for at, link in enumerate(self.links):
            if isinstance(link.operation, Elementwise):
                (source,) = link.arguments
                kept = [i for i in state if last_use[i] > at]
                sizes = [math.prod(shapes[i]) for i in (source, *kept)]
                _check_size(link, sum(sizes) * width, limit)
                rows = [self._rows(state[i], width) for i in (source, *kept)]
                weights.append(rows[0] if len(rows) == 1 else torch.cat(rows))
                low, high = ranges.get(at) or self._slopes(link)
                passed = torch.ones(sum(sizes[1:]), dtype=torch.float64, device=self.device)
                slopes.append((torch.cat([low.flatten(), passed]), torch.cat([high.flatten(), passed])))
                width = sum(sizes)
                if kept:
                    eye = torch.eye(width, dtype=torch.float64, device=self.device)
                    state = dict(zip((at + 1, *kept), torch.split(eye, sizes), strict=True))
                else:
                    state = {at + 1: None}
                continue
            linear = getattr(link.operation, "linear", None)
            if linear is None:
                raise UnsupportedLayerError(
                    f"layer {link.path!r} ({type(link.operation).__name__}) is neither affine nor elementwise, so the "
                    "model cannot be written as matrices and slopes"
                )
            _check_size(link, math.prod(link.shape) * width, limit)
            if isinstance(link.operation, Reshape):
                state[at + 1] = state[link.arguments[0]]
            elif isinstance(link.operation, Matrix) and state[link.arguments[0]] is None and len(link.shape) == 1:
                state[at + 1] = link.operation.weight().double()
            else:
                columns = [self._columns(state[i], width, shapes[i]) for i in link.arguments]
                state[at + 1] = linear(*columns).reshape(width, -1).T
            for i in [i for i in state if last_use.get(i, -1) <= at and i != at + 1]:
                del state[i]
        if self.links:
            _check_size(self.links[-1], math.prod(self.out_shape) * width, limit)
        weights.append(self._rows(state[len(self.links)], width))
        return weights, slopes

    def _rows(self, matrix: Tensor | None, width: int) -> Tensor:
        return torch.eye(width, dtype=torch.float64, device=self.device) if matrix is None else matrix

    def _columns(self, matrix: Tensor | None, width: int, shape: tuple[int, ...]) -> Tensor:
        return self._rows(matrix, width).T.reshape(width, *shape)

    def _slopes(self, link: Link) -> tuple[Tensor, Tensor]:
        assert isinstance(link.operation, Elementwise)
        low, high = link.operation.activation.slopes
        full = torch.ones(math.prod(link.shape), dtype=torch.float64, device=self.device)
        return low * full, high * full


def check_chain_norm(norm: float) -> float:
    """Return ``norm`` if chains can be bounded in it.

    Raises:
        ValueError: it is neither 1, 2 nor inf.
    """
    if isinstance(norm, bool) or norm not in (1, 2, math.inf):
        raise ValueError(f"norm: expected 1, 2 or inf, got {norm!r}")
    return float(norm)


def _check_size(link: Link, entries: int, limit: int) -> None:
    if entries > limit:
        raise UnsupportedLayerError(
            f"layer {link.path!r} ({type(link.operation).__name__}) would need a matrix of {entries} entries, more "
            f"than the limit of {limit}: bound it by norms (method='norms')"
        )
