"""The reader of IDX files, the format of MNIST."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.named.files import RELOAD, content_of
from cheaplip.errors import DataError

__all__ = ["SIDE", "parse", "read"]

SIDE = 28
"""Pixels on each side of an image of MNIST and its relatives."""

_KINDS = {1: "labels", 3: "images"}


def read(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, plain or compressed with gzip.

    Args:
        path: the file.
        dimensions: the number of dimensions that its array must have: 3 for images, 1 for labels.

    Returns:
        A read-only array.

    Raises:
        DataError: the file cannot be read, is damaged, or holds something else.
    """
    return parse(content_of(path), str(path), dimensions=dimensions)


def parse(content: bytes, where: str, *, dimensions: int) -> NDArray[np.uint8]:
    """Parse the content of an IDX file of bytes.

    Args:
        content: the content, not compressed.
        where: where it comes from, for messages.
        dimensions: as in :func:`read`.

    Raises:
        DataError: it is damaged or something else.

    Reference:
        LeCun, Cortes, Burges: the MNIST database, "File formats": bytes 0, 0, type, number of dimensions; then each
        dimension in four bytes, big-endian; then the entries.
    """
    header = 4 + 4 * dimensions
    magic, expected = content[:4].hex(), f"000008{dimensions:02x}"
    if len(content) < 4 or (magic == expected and len(content) < header):
        raise DataError(f"{where}: truncated: expected a header of {header} bytes, got {len(content)}; {RELOAD}")
    if magic != expected:
        kind, got = _KINDS.get(dimensions, "entries"), "another kind of file"
        if magic[:6] == "000008":
            got = f"a file of {_KINDS.get(content[3], 'something else')}"
        raise DataError(
            f"{where}: expected an IDX file of {kind} (magic number 0x{expected}), got {got} (0x{magic}); "
            "check that the files were not swapped"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = header + math.prod(shape)
    if len(content) != size:
        problem = "truncated" if len(content) < size else "has trailing bytes"
        raise DataError(
            f"{where}: {problem}: expected {size} bytes for {' x '.join(map(str, shape))} entries, "
            f"got {len(content)}; {RELOAD}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
