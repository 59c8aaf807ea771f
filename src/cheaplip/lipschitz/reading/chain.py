"""A model as data: a chain of known operations that refers to the model's weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.operations import Elementwise, LipschitzMap, Matrix, Operation, Reshape

__all__ = ["Chain", "Link", "SlopeRanges", "Whole", "check_chain_norm"]

SlopeRanges = Mapping[int, tuple[Tensor, Tensor]]
"""What is known over a domain, by the index of the link.

Of an activation: smallest and largest slope of each entry, each of the link's shape. Of a map whose constant depends on
where its arguments lie: their smallest and largest entries, flattened and joined.
"""


class Whole(NamedTuple):
    """What the last few links compute together: a map with constants in all norms, and tight intervals.

    Attributes:
        operation: the map.
        back: how many values before the link's own stands the value that the map takes.
    """

    operation: LipschitzMap
    back: int


@dataclass(frozen=True)
class Link:
    """One operation of a chain.

    Value 0 of a chain is its input; link ``i`` makes value ``i + 1`` from earlier values.

    Attributes:
        operation: what it does.
        arguments: the indices of the values that it takes.
        shape: of its result, without the batch.
        path: of the layer in the model.
        whole: the map that this link and some before it are the parts of, such as the sorting of two values.
    """

    operation: Operation
    arguments: tuple[int, ...]
    shape: tuple[int, ...]
    path: str
    whole: Whole | None = None


@dataclass(frozen=True)
class Chain:
    """A model as a sequence of known operations; it refers to the model's weights and follows their changes.

    Attributes:
        shape: of one input.
        links: the operations in order; the value of the last one is the output.
        device: of the weights.
        digest: computes the digest of the model with its present weights; None for a part of a model.
    """

    shape: tuple[int, ...]
    links: tuple[Link, ...]
    device: torch.device
    digest: Callable[[], str] | None = None

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
        """For each value that some link takes, by itself or as a whole, the index of the last such link."""
        found = {}
        for at, link in enumerate(self.links):
            whole = self.whole(at)
            found.update(dict.fromkeys(link.arguments if whole is None else (*link.arguments, whole[1]), at))
        return found

    def whole(self, at: int) -> tuple[LipschitzMap, int] | None:
        """Return the map that link ``at`` completes, and the index of the value that it takes, if there is one."""
        whole = self.links[at].whole
        return None if whole is None or at + 1 < whole.back else (whole.operation, at + 1 - whole.back)

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
        last_use = {i: at for at, link in enumerate(self.links) for i in link.arguments}
        last_use[len(self.links)] = len(self.links)
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
                kind = getattr(link.operation, "kind", type(link.operation).__name__)
                raise UnsupportedLayerError(
                    f"layer {link.path!r} ({kind}) is neither affine nor elementwise, so the "
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
        return link.operation.slopes(link.shape, self.device)


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
