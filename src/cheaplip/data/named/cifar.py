"""CIFAR-10 in the binary files of its authors: records of a label and 3,072 pixels."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cheaplip.data.named.files import RELOAD, content_of, download, own
from cheaplip.data.named.official import Official, Part
from cheaplip.errors import DataError

__all__ = ["NAME", "read_cifar"]

NAME = "cifar-10"

_URL = "https://www.cs.toronto.edu/~kriz/"
_ARCHIVE, _CHECKSUM = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def read_cifar() -> Official:
    """Read CIFAR-10: colour images (N, 3, 32, 32) of ten classes.

    The files come from ``$CHEAPLIP_DATA/cifar-10``, unpacked (``data_batch_1.bin`` and so on, there or in
    ``cifar-10-batches-bin``) or as the archive ``cifar-10-binary.tar.gz``. Otherwise the archive, of 162 MiB, is
    downloaded once, from ``$CHEAPLIP_DATA_URL/cifar-10`` if that is set, and must match its checksum. It is read as it
    is, without unpacking it to the disk.

    Raises:
        DataError: a file is missing, incomplete, or cannot be downloaded; the message names it.

    Reference:
        Krizhevsky: Learning multiple layers of features from tiny images, 2009. The layout is that of
        https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    read = _source()
    batches = [_parse(*read(file)) for file in _TRAIN]
    test = _parse(*read(_TEST))
    sizes = [len(batch.y) for batch in batches]
    if len(set(sizes)) > 1:
        least = int(np.argmin(sizes))
        where, _ = read(_TRAIN[least])
        raise DataError(
            f"{where}: truncated: expected {max(sizes)} images, as in the other training files, got "
            f"{sizes[least]}; {RELOAD}"
        )
    train = Part(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    return Official(train, test, classes=len(_CLASSES), class_names=_CLASSES)


def _source() -> Callable[[str], tuple[str, bytes]]:
    """Find the files, in a folder or an archive; return the way from a file's name to its place and its content."""
    folder = own((NAME, _FOLDER))
    if folder is not None:
        places = (folder, folder / _FOLDER)
        # Any one of the files says where the others should be: a folder that lacks some is refused by their name.
        found = [place for place in places if any((place / file).exists() for file in (*_TRAIN, _TEST))]
        if found:
            return lambda file: _read_file(found[0] / file)
    archive = own((f"{NAME}/{_ARCHIVE}", _ARCHIVE))
    if archive is None and folder is not None:
        raise DataError(
            f"{folder}: expected {_TRAIN[0]} and the other files of {_FOLDER}, or the archive {_ARCHIVE}; add them, or "
            "unset CHEAPLIP_DATA to download it"
        )
    if archive is None:
        archive = download(NAME, _ARCHIVE, f"{_URL}{_ARCHIVE}", f"md5:{_CHECKSUM}")
    contents = _read_archive(archive)
    return lambda file: (f"{archive}, {file}", contents[file])


def _read_file(path: Path) -> tuple[str, bytes]:
    if not path.exists():
        raise DataError(f"{path}: no such file, beside others of {NAME}; unpack the archive again")
    return str(path), content_of(path)


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the content of each file that is needed, in one pass over the archive."""
    packed = content_of(archive)  # whole, because a tar file alone has no checksum of what it holds
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as opened:
            for member in opened:
                file = Path(member.name).name
                if file in (*_TRAIN, _TEST) and (stream := opened.extractfile(member)) is not None:
                    contents[file] = stream.read()
    except tarfile.TarError as error:
        raise DataError(f"{archive}: truncated or corrupted: {error}; {RELOAD}") from error
    if missing := [file for file in (*_TRAIN, _TEST) if file not in contents]:
        raise DataError(f"{archive}: expected {', '.join(missing)} in it, got none; {RELOAD}")
    return contents


def _parse(where: str, content: bytes) -> Part:
    """Read a file of records, each a label and the pixels of the red, the green and the blue channel."""
    if not content or len(content) % _RECORD:
        raise DataError(
            f"{where}: truncated or another kind of file: expected a multiple of {_RECORD} bytes, a label and "
            f"3 x 32 x 32 pixels for each image, got {len(content)}; {RELOAD}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    y = records[:, 0]
    if y.max() >= len(_CLASSES):
        row = int(np.argmax(y >= len(_CLASSES)))
        raise DataError(f"{where}: expected labels from 0 to 9, got {y[row]} at row {row}; is it a file of {NAME}?")
    return Part(records[:, 1:].reshape(-1, *_SHAPE), y)
