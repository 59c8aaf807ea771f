"""Files of data as users have them: small ones, written by the tests."""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cheaplip.errors import DataError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAIN_IMAGES, TRAIN_LABELS = FILES[:2]


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def small_mnist(folder: Path, *, compress: bool = True) -> Path:
    """A folder of the four files: 120 images to train on and 30 to test on, all different."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 120), ("t10k", 30)):
        images, labels = rng.integers(256, size=(count, 28, 28)), np.arange(count) % 10
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx_bytes(array)
            (folder / (f"{name}.gz" if compress else name)).write_bytes(gzip.compress(content) if compress else content)
    return folder


def repack(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def save_csv(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def save_npz(folder: Path, **arrays: object) -> str:
    path = folder / "arrays.npz"
    np.savez(path, **arrays)
    return str(path)


def blobs(count: int = 60, shape: tuple[int, ...] = (3,), classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, *shape)).astype(np.float32), np.arange(count) % classes


def refuses(message: str) -> "pytest.RaisesExc[DataError]":
    return pytest.raises(DataError, match=re.escape(message))
