"""MNIST and its relatives in IDX files: Fashion-MNIST, KMNIST and the letters of EMNIST."""

import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.named import idx
from cheaplip.data.named.files import RELOAD, content_of, download, own, root, unpack
from cheaplip.data.named.official import Official, Part
from cheaplip.errors import DataError

__all__ = ["LETTERS", "NAMES", "images_and_labels", "read_emnist_letters", "read_mnist"]

NAMES = ("mnist", "fashion-mnist", "kmnist")
"""The sets whose four files are called as those of MNIST are."""

LETTERS = "emnist-letters"

_URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "kmnist": "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
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
# MD5 of the compressed files as their authors serve them, where that is what is published.
_PACKED_CHECKSUMS = {
    "kmnist": {
        "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
    }
}
_CLASS_NAMES: dict[str, tuple[str, ...]] = {"kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")}
_SHARE = 1 / 12  # of the training part, 5,000 images

_EMNIST_URL = "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/"
_EMNIST_ZIP, _EMNIST_CHECKSUM = "gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e"
_ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")


def read_mnist(name: str) -> Official:
    """Read MNIST, Fashion-MNIST or KMNIST.

    Raises:
        DataError: see :func:`images_and_labels`.
    """
    train, test = (images_and_labels(name, part) for part in ("train", "t10k"))
    return Official(_grey(*train), _grey(*test), class_names=_CLASS_NAMES.get(name, ()), share=_SHARE)


def images_and_labels(name: str, part: Literal["train", "t10k"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one part of MNIST, Fashion-MNIST or KMNIST.

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
    images, labels = (_load(name, f"{part}-{kind}-idx{n}-ubyte", n) for n, kind in ((3, "images"), (1, "labels")))
    return _matched(images, labels, name, labels_in=(0, 9))


def read_emnist_letters() -> Official:
    """Read the letters of EMNIST, upright and numbered from 0.

    The files hold each image with rows and columns exchanged, and number the letters from 1.

    They come from ``$CHEAPLIP_DATA/emnist-letters``: ``emnist-letters-train-images-idx3-ubyte`` and the other three,
    plain or ``.gz``, also under the names of MNIST's files, or the archive ``gzip.zip`` that holds them. Otherwise that
    archive, of all sets of EMNIST, is downloaded once.

    Raises:
        DataError: a file is missing, damaged or cannot be downloaded; the message names it.

    Reference:
        Cohen, Afshar, Tapson, van Schaik: EMNIST: an extension of MNIST to handwritten letters, 2017.
    """
    folder = own((LETTERS,))
    train, test = _letters(folder, "train"), _letters(folder, "test")
    return Official(train, test, classes=len(_ALPHABET), class_names=_ALPHABET)


class _Loaded(NamedTuple):
    """An array and the place that it comes from, for messages."""

    where: str
    array: NDArray[np.uint8]


def _grey(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Part:
    return Part(images[:, None], labels)


def _load(name: str, file: str, dimensions: int) -> _Loaded:
    path = _locate(name, file)
    content = content_of(path)
    _refuse_renamed(content, path)
    return _Loaded(str(path), idx.parse(content, str(path), dimensions=dimensions))


def _matched(
    images: _Loaded, labels: _Loaded, name: str, *, labels_in: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images and labels after a check that they are those of a set."""
    low, high = labels_in
    x, y = images.array, labels.array
    if len(x) == 0:
        raise DataError(f"{images.where}: expected at least one image, got none; {RELOAD}")
    if x.shape[1:] != (idx.SIDE, idx.SIDE):
        got = " x ".join(map(str, x.shape[1:]))
        raise DataError(f"{images.where}: expected images of 28 x 28 pixels, got {got}; is it a file of {name}?")
    if len(x) != len(y):
        raise DataError(
            f"{labels.where}: expected one label for each of the {len(x)} images in {images.where}, "
            f"got {len(y)}; take both files from the same part"
        )
    outside = (y < low) | (y > high)
    if outside.any():
        first = int(outside.argmax())
        raise DataError(
            f"{labels.where}: expected labels from {low} to {high}, got {y[first]} at row {first}; {RELOAD}"
        )
    return x, y


def _locate(name: str, file: str) -> Path:
    parent = root(f"{name}/")
    if parent is None or not (parent / name).is_dir():
        return _download(name, file)
    folder = parent / name
    found = [path for path in (folder / file, folder / f"{file}.gz") if path.exists()]
    if not found:
        raise DataError(
            f"{folder}: expected the file {file}.gz, or {file}; add it, or unset CHEAPLIP_DATA to download it"
        )
    return found[0]


def _download(name: str, file: str) -> Path:
    packed = f"{file}.gz"
    if name in _PACKED_CHECKSUMS:
        return download(name, packed, f"{_URLS[name]}{packed}", f"md5:{_PACKED_CHECKSUMS[name][file]}")
    checksum = f"sha256:{_CHECKSUMS[name][file]}"
    return download(name, packed, f"{_URLS[name]}{packed}", checksum, keep=file, fetch=_fetch)


def _fetch(url: str, output_file: str, _: Any) -> None:
    """Download the file at ``url`` and write its unpacked content to ``output_file``."""
    import pooch

    packed = io.BytesIO()
    pooch.HTTPDownloader(chunk_size=1 << 16)(url, packed, None)
    Path(output_file).write_bytes(unpack(packed.getvalue(), url))


def _letters(folder: Path | None, part: str) -> Part:
    images = _load_letters(folder, f"emnist-letters-{part}-images-idx3-ubyte", 3)
    labels = _load_letters(folder, f"emnist-letters-{part}-labels-idx1-ubyte", 1)
    x, y = _matched(images, labels, LETTERS, labels_in=(1, len(_ALPHABET)))
    return _grey(np.ascontiguousarray(x.transpose(0, 2, 1)), y - np.uint8(1))


def _load_letters(folder: Path | None, file: str, dimensions: int) -> _Loaded:
    archive = None
    if folder is not None:
        as_mnist = file.removeprefix(f"{LETTERS}-").replace("test-", "t10k-")
        names = [f"{name}{end}" for name in (file, as_mnist) for end in ("", ".gz")]
        found = [folder / name for name in names if (folder / name).exists()]
        if found:
            return _Loaded(str(found[0]), idx.parse(content_of(found[0]), str(found[0]), dimensions=dimensions))
        archive = folder / _EMNIST_ZIP
        if not archive.exists():
            raise DataError(
                f"{folder}: expected the file {file}.gz, or {file}, or the archive {_EMNIST_ZIP}; add it, or unset "
                "CHEAPLIP_DATA to download it"
            )
    if archive is None:
        archive = download(LETTERS, _EMNIST_ZIP, f"{_EMNIST_URL}{_EMNIST_ZIP}", f"md5:{_EMNIST_CHECKSUM}")
    where = f"{archive}, {file}.gz"
    try:
        with zipfile.ZipFile(archive) as opened:
            content = opened.read(f"gzip/{file}.gz")
    except KeyError as error:
        raise DataError(f"{archive}: expected gzip/{file}.gz in it, got none; {RELOAD}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: truncated or corrupted: {error}; {RELOAD}") from error
    return _Loaded(where, idx.parse(unpack(content, where), where, dimensions=dimensions))


def _refuse_renamed(content: bytes, path: Path) -> None:
    """Raise if the content is that of another official file, which no other check would notice."""
    names = {sha: f"{name}/{file}" for name, files in _CHECKSUMS.items() for file, sha in files.items()}
    held = names.get(hashlib.sha256(content).hexdigest())
    called = f"{path.parent.name}/{path.name.removesuffix('.gz')}"
    if held is not None and held != called:
        raise DataError(f"{path}: mislabelled: its content is that of {held}; put each file under its own name")
