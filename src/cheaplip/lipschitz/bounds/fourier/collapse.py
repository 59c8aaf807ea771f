"""From an image to a vector: the joint matrix behind a linear map of all pixels, such as a dense layer."""

import math
from typing import Any

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.gram import raised, spread
from cheaplip.lipschitz.bounds.fourier.plan import Layout
from cheaplip.lipschitz.bounds.fourier.torus import Torus
from cheaplip.lipschitz.reading.chain import Link
from cheaplip.lipschitz.reading.operations import Matrix

__all__ = ["Collapse", "matrix_of"]

_ULPS = 64  # of a wave, beside the number of terms of a transform
_BLOCK = 128  # columns of a matrix that are computed at once
_OVERSAMPLED, _TOLERANCE = 8, 1e-10  # columns beside the expected rank of a gradient; what they may leave out of it


def matrix_of(link: Link, shape: tuple[int, ...], layout: Layout) -> Tensor:
    """Return the matrix of a linear link, a row for each output: (m, channels, *spatial) float64.

    Args:
        link: the link.
        shape: of its input.
        layout: of the value that it takes.
    """
    if isinstance(link.operation, Matrix) and len(shape) == 1:
        matrix = link.operation.weight().double()
    else:
        count = math.prod(shape)
        like = getattr(link.operation, "weight", None)
        device = None if like is None else like().device
        eye = torch.eye(count, dtype=torch.float64, device=device).reshape(count, *shape)
        matrix = link.operation.linear(eye).reshape(count, -1).T  # type: ignore[union-attr]
    return matrix.reshape(len(matrix), layout.channels, *layout.spatial)


class Collapse:
    """A linear map of all pixels of an image.

    Args:
        rows: its matrix, (m, channels, *spatial).
        torus: that the image lies on.
    """

    def __init__(self, rows: Tensor, torus: Torus) -> None:
        self._rows, self._torus = rows.flatten(2), torus
        self._axes = [range(n) for n in rows.shape[2:]]
        self._matrix: Tensor | None = None  # √N times that of the unitary transform

    def __call__(self, gram: Tensor, outputs: int) -> Tensor:
        """Return the joint matrix of the map's results, (1, m, m) float64.

        Args:
            gram: P of the image, (F, channels, channels), or (1, …) where it is the same at every frequency.
            outputs: of the model, at about so many of which a gradient starts.
        """
        rows, roots = self._rows, spread(gram)
        if len(gram) == 1:  # white noise in space
            pushed = torch.einsum("ocn,cd->odn", rows, gram[0].real)
            image = pushed.flatten(1) @ rows.flatten(1).T
            slack = (rows.detach().abs() * roots[0][:, None]).sum(dim=1).square().sum(dim=1)
            return raised(image[None], slack[None], rows.shape[1] * (rows.shape[2] + 1))
        if self._matrix is None:  # white noise does without
            self._matrix = self._torus.transform(rows, self._axes)
        weights = self._torus.weights(rows.device) / math.prod(self._torus.size)
        image = _Product.apply(self._matrix, gram, weights, outputs)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            reach = (rows.abs().sum(dim=2) @ roots.T).T  # an entry of the matrix is a sum of terms times waves
            slack = (weights[:, None] * reach.square()).sum(dim=0)
        return raised(image[None], slack[None], 2 * rows.shape[1] * (len(gram) + 1) + rows.shape[2] + _ULPS)


class _Product(torch.autograd.Function):
    """Σ_ω w(ω) Re M(ω) P(ω) M(ω)ᴴ, symmetric, for M (F, m, c) and Hermitian P (F, c, c)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, gram: Tensor, weights: Tensor, outputs: int) -> Tensor:
        ctx.save_for_backward(matrix, gram, weights)
        ctx.outputs = outputs
        pushed = (matrix @ gram) * weights[:, None, None]
        left, right = (torch.view_as_real(x.transpose(0, 1).flatten(1)).flatten(1) for x in (pushed, matrix))
        image = left.new_empty(len(left), len(left))
        for start in range(0, len(left), _BLOCK):  # only what is on and below the diagonal is computed
            below, across = slice(start, None), slice(start, start + _BLOCK)
            block = left[below] @ right[across].T  # the real part of the sum over all frequencies
            image[below, across], image[across, below] = block, block.T
        return image

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        matrix, gram, weights = ctx.saved_tensors
        basis, core = _factored((gradient + gradient.T) / 2, ctx.outputs + _OVERSAMPLED)
        pushed = basis.T.to(matrix) @ matrix
        middle = core.to(matrix) @ pushed * weights[:, None, None]
        of_matrix = 2 * (basis.to(matrix) @ (middle @ gram)) if ctx.needs_input_grad[0] else None
        of_gram = pushed.mH @ middle if ctx.needs_input_grad[1] else None
        return of_matrix, of_gram, None, None


def _factored(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Write a symmetric matrix as B C Bᵀ, with few columns in B if its rank is as low as expected."""
    if 2 * rank < len(matrix):
        source = torch.Generator(matrix.device).manual_seed(0)
        sketch = torch.randn(len(matrix), rank, dtype=matrix.dtype, device=matrix.device, generator=source)
        basis = torch.linalg.qr(matrix @ sketch)[0]
        pushed = basis.T @ matrix
        if bool(torch.linalg.matrix_norm(matrix - basis @ pushed) <= _TOLERANCE * torch.linalg.matrix_norm(matrix)):
            return basis, pushed @ basis
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), matrix
