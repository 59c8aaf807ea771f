"""From an image to a vector: the joint matrix behind a linear map of all pixels, such as a dense layer."""

import math

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.gram import raised, spread
from cheaplip.lipschitz.bounds.fourier.plan import Layout
from cheaplip.lipschitz.bounds.fourier.torus import Torus
from cheaplip.lipschitz.reading.chain import Link
from cheaplip.lipschitz.reading.operations import Matrix

__all__ = ["collapsed", "matrix_of"]

_ULPS = 64  # of a wave, beside the number of terms of a transform


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


def collapsed(gram: Tensor, rows: Tensor, torus: Torus) -> Tensor:
    """Return the joint matrix of the outputs, (1, m, m) float64.

    Args:
        gram: P of the image, (F, channels, channels), or (1, …) where it is the same at every frequency.
        rows: the matrix, (m, channels, *spatial).
        torus: that the image lies on.
    """
    flat, roots = rows.flatten(2), spread(gram)
    if len(gram) == 1:  # white noise in space
        pushed = torch.einsum("ocn,cd->odn", flat, gram[0].real)
        image = pushed.flatten(1) @ flat.flatten(1).T
        slack = (flat.detach().abs() * roots[0][:, None]).sum(dim=1).square().sum(dim=1)
        return raised(image[None], slack[None], flat.shape[1] * (flat.shape[2] + 1))
    matrix = torus.transform(flat, [range(n) for n in rows.shape[2:]])  # √N times that of the unitary transform
    weights = torus.weights(rows.device) / math.prod(torus.size)
    pushed = (matrix @ gram) * weights[:, None, None]
    left, right = (torch.view_as_real(x.transpose(0, 1).flatten(1)).flatten(1) for x in (pushed, matrix))
    image = left @ right.T  # the real part of the sum over all frequencies
    with torch.no_grad():
        reach = (flat.abs().sum(dim=2) @ roots.T).T  # an entry of the matrix is a sum of terms times waves
        slack = (weights[:, None] * reach.square()).sum(dim=0)
    return raised(image[None], slack[None], 2 * flat.shape[1] * (len(gram) + 1) + flat.shape[2] + _ULPS)
