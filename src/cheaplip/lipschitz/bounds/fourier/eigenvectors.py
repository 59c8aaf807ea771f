"""The increments that are largest relative to a diagonal, over all frequencies. Nothing here proves anything."""

import math

import torch
from torch import Tensor

__all__ = ["largest_ratio"]

_CHUNK = 16  # frequencies whose eigenvalues are computed at once
_DIRECT, _KRYLOV = 160, 48  # rows of a matrix whose eigenvectors are computed; vectors that stand for those of others


def largest_ratio(gram: Tensor, shape: Tensor, among: Tensor) -> Tensor:
    """Return the largest xᴴPx / xᴴDx at any frequency, differentiably; inf where that overflows.

    Args:
        gram: P, (F, n, n).
        shape: the diagonal of D, (n,), positive.
        among: the entries that x has, (n,) bool.
    """
    if not bool(among.all()):
        if not bool(among.any()):
            return shape.new_zeros(())
        gram, shape = gram[:, among][:, :, among], shape[among]
    with torch.no_grad():
        root = shape.rsqrt()
        balanced = gram * (root.unsqueeze(1) * root)
        if not bool(torch.isfinite(balanced).all()):
            return shape.new_full((), math.inf)
        place, vector = _top_vector(balanced)
        vector = vector * root
    size = (vector.conj() @ gram[place] @ vector).real
    ratio: Tensor = size / (vector.abs().square() @ shape)
    return ratio


def _top_vector(gram: Tensor) -> tuple[int, Tensor]:
    """Return the frequency of the largest eigenvalue, and its eigenvector."""
    gram = gram / torch.diagonal(gram, dim1=1, dim2=2).real.amax().clamp_min(1e-300)  # its squares do not underflow
    if len(gram) == 1:
        return 0, _eigenvector(gram[0])
    square = gram @ gram
    most = torch.linalg.matrix_norm(square).sqrt()  # no eigenvalue is larger
    order = most.argsort(descending=True)
    best, place = -math.inf, int(order[0])
    for start in range(0, len(order), _CHUNK):
        some = order[start : start + _CHUNK]
        if not float(most[some[0]]) > best:
            break
        tops = torch.linalg.eigvalsh(gram[some])[:, -1]
        if float(tops.max()) > best:
            best, place = float(tops.max()), int(some[tops.argmax()])
    return place, _eigenvector(gram[place])


def _eigenvector(matrix: Tensor) -> Tensor:
    """Return the eigenvector of the largest eigenvalue; of a large matrix by the method of Lanczos."""
    if len(matrix) <= _DIRECT:
        last: Tensor = torch.linalg.eigh(matrix)[1][:, -1]
        return last
    basis = matrix.new_zeros(_KRYLOV, len(matrix))
    projected = matrix.new_zeros(_KRYLOV, _KRYLOV)
    vector = (torch.diagonal(matrix).abs() + 1e-6).sqrt().to(matrix)
    vector = vector / torch.linalg.vector_norm(vector)
    for at in range(_KRYLOV):
        basis[at] = vector
        pushed = matrix @ vector
        projected[: at + 1, at] = basis[: at + 1].conj() @ pushed
        for _ in range(2):  # twice is enough
            pushed = pushed - (basis[: at + 1].conj() @ pushed) @ basis[: at + 1]
        length = torch.linalg.vector_norm(pushed)
        vector = torch.where(length > 1e-12 * projected.abs().max(), pushed / length, 0)  # 0 once the space is closed
    unused = torch.linalg.vector_norm(basis, dim=1) == 0  # of eigenvalue −1, as no other is negative
    small = torch.triu(projected) + torch.triu(projected, 1).mH - torch.diag(unused.to(matrix))
    top: Tensor = torch.linalg.eigh(small)[1][:, -1] @ basis
    return top
