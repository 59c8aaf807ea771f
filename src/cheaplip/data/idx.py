"""The reader of MNIST and Fashion-MNIST: IDX files from a folder, or downloaded once and verified."""

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pooch
from numpy.typing import NDArray

from cheaplip.errors import DataError

__all__ = ["CLASSES", "NAMES", "images_and_labels", "read"]

NAMES = ("mnist", "fashion-mnist")
CLASSES = 10

_URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
# SHA256 of the unpacked files, which is the same however a mirror compressed them.
_CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
_KINDS = {1: "labels", 3: "images"}
_SIDE = 28
_GZIP = b"\x1f\x8b"
_RELOAD = "copy or download it again"


def images_and_labels(name: str, part: Literal["train", "t10k"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one part of MNIST or Fashion-MNIST.

    The files, plain or ``.gz``, come from the folder ``$CHEAPLIP_DATA/NAME`` if there is one. Otherwise they are
    downloaded once, from ``$CHEAPLIP_DATA_URL/NAME`` if that is set. Downloads must match their checksums. Files in
    your own folder may hold other images, but an official file under the name of another one is refused.

    Args:
        name: one of ``NAMES``.
        part: ``"train"``, or ``"t10k"`` for the test part.

    Returns:
        Images (N, 28, 28) and labels (N,) from 0 to 9.

    Raises:
        DataError: a file is missing, damaged, has another one's name or cannot be downloaded; the message names it.
    """
    images_path, labels_path = (
        _locate(name, f"{part}-{kind}-idx{n}-ubyte") for n, kind in ((3, "images"), (1, "labels"))
    )
    images, labels = read(images_path, dimensions=3), read(labels_path, dimensions=1)
    if len(images) == 0:
        raise DataError(f"{images_path}: expected at least one image, got none; {_RELOAD}")
    if images.shape[1:] != (_SIDE, _SIDE):
        got = " x ".join(map(str, images.shape[1:]))
        raise DataError(f"{images_path}: expected images of 28 x 28 pixels, got {got}; is it a file of {name}?")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: expected one label for each of the {len(images)} images in {images_path}, "
            f"got {len(labels)}; take both files from the same part"
        )
    if labels.max() >= CLASSES:
        first = int(np.argmax(labels >= CLASSES))
        raise DataError(f"{labels_path}: expected labels from 0 to 9, got {labels[first]} at row {first}; {_RELOAD}")
    return images, labels


def read(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, plain or compressed with gzip.

    Args:
        path: the file.
        dimensions: the number of dimensions that its array must have: 3 for images, 1 for labels.

    Returns:
        A read-only array.

    Raises:
        DataError: the file cannot be read, is damaged, or holds something else.

    Reference:
        LeCun, Cortes, Burges: the MNIST database, "File formats": bytes 0, 0, type, number of dimensions; then each
        dimension in four bytes, big-endian; then the entries.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the file and its permissions") from error
    content = _unpack(content, path)
    _refuse_renamed(content, path)
    header = 4 + 4 * dimensions
    magic, expected = content[:4].hex(), f"000008{dimensions:02x}"
    if len(content) < 4 or (magic == expected and len(content) < header):
        raise DataError(f"{path}: truncated: expected a header of {header} bytes, got {len(content)}; {_RELOAD}")
    if magic != expected:
        kind, got = _KINDS.get(dimensions, "entries"), "another kind of file"
        if magic[:6] == "000008":
            got = f"a file of {_KINDS.get(content[3], 'something else')}"
        raise DataError(
            f"{path}: expected an IDX file of {kind} (magic number 0x{expected}), got {got} (0x{magic}); "
            "check that the files were not swapped"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = header + math.prod(shape)
    if len(content) != size:
        problem = "truncated" if len(content) < size else "has trailing bytes"
        raise DataError(
            f"{path}: {problem}: expected {size} bytes for {' x '.join(map(str, shape))} entries, "
            f"got {len(content)}; {_RELOAD}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _locate(name: str, file: str) -> Path:
    root = os.environ.get("CHEAPLIP_DATA")
    if not root:
        return _download(name, file)
    if not Path(root).is_dir():
        raise DataError(f"CHEAPLIP_DATA={root}: no such folder; set it to the folder that holds {name}/, or unset it")
    folder = Path(root) / name
    if not folder.is_dir():
        return _download(name, file)
    found = [path for path in (folder / file, folder / f"{file}.gz") if path.exists()]
    if not found:
        raise DataError(
            f"{folder}: expected the file {file}.gz, or {file}; add it, or unset CHEAPLIP_DATA to download it"
        )
    return found[0]


def _download(name: str, file: str) -> Path:
    mirror = os.environ.get("CHEAPLIP_DATA_URL")
    url = f"{mirror.rstrip('/')}/{name}/{file}.gz" if mirror else f"{_URLS[name]}{file}.gz"
    remedy = f"or set CHEAPLIP_DATA to a folder that holds {name}/{file}.gz"
    checksum = _CHECKSUMS[name][file]
    try:
        # pooch writes to a temporary file and renames it once the checksum matches.
        path = pooch.retrieve(
            url, f"sha256:{checksum}", fname=file, path=pooch.os_cache("cheaplip") / name, downloader=_fetch
        )
    except DataError as error:
        raise DataError(f"{error}, {remedy}") from error
    except OSError as error:  # connection, HTTP status, and the cache folder alike
        raise DataError(f"cannot download {url}: {error}; try again, {remedy}") from error
    except ValueError as error:
        raise DataError(
            f"{url}: expected a file whose content has SHA256 {checksum}, got another; try again, {remedy}"
        ) from error
    return Path(path)


def _fetch(url: str, output_file: str, _: Any) -> None:
    """Download the file at ``url`` and write its unpacked content to ``output_file``."""
    packed = io.BytesIO()
    pooch.HTTPDownloader(chunk_size=1 << 16)(url, packed, None)
    Path(output_file).write_bytes(_unpack(packed.getvalue(), url))


def _unpack(content: bytes, where: Path | str) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise DataError(f"{where}: truncated: the compressed file ends too early; {_RELOAD}") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{where}: corrupted: {error}; {_RELOAD}") from error


def _refuse_renamed(content: bytes, path: Path) -> None:
    """Raise if the content is that of another official file, which no other check would notice."""
    names = {sha: f"{name}/{file}" for name, files in _CHECKSUMS.items() for file, sha in files.items()}
    held = names.get(hashlib.sha256(content).hexdigest())
    called = f"{path.parent.name}/{path.name.removesuffix('.gz')}"
    if held is not None and called in names.values() and called != held:
        raise DataError(f"{path}: mislabelled: its content is that of {held}; put each file under its own name")
