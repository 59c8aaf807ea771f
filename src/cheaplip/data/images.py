"""The reader of image folders: a folder for each class, or such folders below ``train`` and ``test``."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.arrays import PARTS, RawData
from cheaplip.errors import DataError

__all__ = ["read_images"]

_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # grey, more than 8 bits
_PART = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "validation"
)
_LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
_MOST_BYTES = 16 << 30  # of all images as float32


class _File(NamedTuple):
    """An image's file, the name of its class, and the part it is given to; ``""`` if none."""

    path: Path
    kind: str
    part: str


def read_images(folder: Path, size: tuple[int, int] | None = None, known: Sequence[str] | None = None) -> RawData:
    """Read the images in a folder that holds a folder for each class.

    The folder may instead hold ``train`` and ``test`` (or ``val``), and these the folders of classes: the split is then
    given. Hidden files are skipped. If every image is grey, there is one channel (C = 1), otherwise red, green, blue.

    Args:
        folder: the folder of folders; classes are numbered in the alphabetical order of the folders' names.
        size: height and width to which images are resized. None: all must have one size.
        known: the classes of a run; folders of other classes are skipped. None: every folder is a class.

    Returns:
        Images (N, C, H, W) as bytes, or with more than 8 bits as they are; classes (N,), and the folders' names.

    Raises:
        DataError: a file is broken, has another size than the first one, is transparent, or holds several pictures; the
            message names the file.
        ImportError: pillow is missing.
    """
    files = _find(folder, known)
    names = sorted({file.kind for file in files}) if known is None else list(known)
    loaded = [_read(file.path, size) for file in files]
    images, notes = [image for image, _ in loaded], []
    first, depth = images[0].size, images[0].mode in _DEEP
    mode = "L" if all(image.mode in _GREY for image in images) else "RGB"
    for file, image in zip(files, images, strict=True):
        if image.size != first:
            raise DataError(
                f"{file.path}: expected {first[1]} × {first[0]} pixels (height × width), as {files[0].path}, got "
                f"{image.size[1]} × {image.size[0]}; resize it, or all with resize=, --resize {first[1]}x{first[0]} on "
                "the command line"
            )
        if (image.mode in _DEEP) != depth:
            kinds = ("8 bits", "more than 8 bits, grey")
            raise DataError(
                f"{file.path}: expected {kinds[depth]}, as {files[0].path}, got {kinds[not depth]}; convert it"
            )
    total = 4 * len(images) * first[0] * first[1] * (1 if mode == "L" or depth else 3)
    if total > _MOST_BYTES:
        raise DataError(
            f"{folder}: expected images that fit in memory, got {len(images)} of {first[1]} × {first[0]} pixels, which "
            f"need {total >> 30} GiB: use resize=, --resize 64 on the command line"
        )
    pixels = [np.asarray(image if depth else image.convert(mode)) for image in images]
    x = np.stack([_one_type(array) for array in pixels] if depth else pixels)
    x = x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if size is not None:
        notes.append(f"resized to {size[0]} × {size[1]}")
    counts = Counter(note for _, note in loaded if note)
    notes += [f"{count} images {note}" for note, count in counts.items()]
    if mode == "RGB" and not depth and (grey := sum(image.mode in _GREY for image in images)):
        notes.append(f"{grey} grey images read as colour")
    y = np.array([names.index(file.kind) for file in files], dtype=np.int64)
    parts = None
    if files[0].part:
        parts = np.array([PARTS.index(file.part) for file in files])
        notes.append(f"split by the folders {', '.join(dict.fromkeys(file.path.parent.parent.name for file in files))}")
    places = [str(file.path) for file in files]
    return RawData(
        x, y, classes=tuple(names), parts=parts, notes=tuple(notes), place=lambda row: places[row], pixels=True
    )


def _find(folder: Path, known: Sequence[str] | None) -> list[_File]:
    """Find the images of a folder, by part and class."""
    inside = _visible(folder)
    parts = {path: _PART.get(path.name.lower()) for path in inside if path.is_dir()}
    split = "train" in parts.values() and len(parts) > 1 and all(parts.values())
    if split and all(any(child.is_dir() for child in _visible(path)) for path in parts):
        if len(set(parts.values())) < len(parts):
            raise DataError(
                f"{folder}: expected one folder for each part, got {', '.join(path.name for path in parts)}; merge them"
            )
        found = [_File(file, kind, str(parts[path])) for path in parts for file, kind in _by_class(path, known)]
        order = [file for part in PARTS for file in found if file.part == part]
        trained = {file.kind for file in order if file.part == "train"}
        for file in order:
            if file.kind not in trained:
                raise DataError(
                    f"{file.path.parent}: expected the classes of the training part, {', '.join(sorted(trained))}, got "
                    f"{file.kind}; rename the folder, or add training images"
                )
        return order
    return [_File(file, kind, "") for file, kind in _by_class(folder, known)]


def _by_class(folder: Path, known: Sequence[str] | None) -> list[tuple[Path, str]]:
    classes = [path for path in _visible(folder) if known is None or path.name in known]
    if loose := [path for path in classes if not path.is_dir()]:
        raise DataError(f"{loose[0]}: expected a folder for each class in {folder}, got a file; move it")
    if empty := [kind for kind in classes if not _visible(kind)]:
        raise DataError(f"{empty[0]}: expected images in the folder of a class, got none; add some, or remove it")
    files = [(path, kind.name) for kind in classes for path in _visible(kind)]
    if not files:
        raise DataError(f"{folder}: expected a folder of images for each class, got an empty folder")
    if nested := [path for path, _ in files if path.is_dir()]:
        raise DataError(f"{nested[0]}: expected images in the folder of a class, got a folder; move its images up")
    return files


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _LITTER)


def _read(path: Path, size: tuple[int, int] | None) -> tuple[Any, str]:
    """Decode an image, rotate it as its camera recorded, and resize it; return it with a note about it."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ImportError("folders of images need pillow: pip install 'cheaplip[images]'") from error
    try:
        with Image.open(path) as opened:
            frames, kind = getattr(opened, "n_frames", 1), opened.format
            image = ImageOps.exif_transpose(opened)
            image.load()
    except Exception as error:  # a damaged file may raise almost anything
        raise DataError(f"{path}: expected an image, which cannot be read: {error}; replace or remove it") from error
    if frames > 1 and kind != "MPO":  # cameras put a preview into the same file
        raise DataError(f"{path}: expected one picture, got {frames}; save one of them alone")
    note = ""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode != "LA" else "LA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError(
                f"{path}: expected grey or colour in 8 bits, without transparency, got transparent pixels; put it on a "
                "background"
            )
        image, note = image.convert(image.mode[:-1]), "with an opaque alpha channel, left out"
    if image.mode not in (*_GREY, *_COLOUR, *_DEEP):
        raise DataError(
            f"{path}: expected grey or colour in 8 bits, without transparency, got mode {image.mode}; convert it"
        )
    if image.mode == "CMYK":
        image, note = image.convert("RGB"), "in CMYK, read as RGB"
    if size is None:
        return image, note
    if image.mode in _DEEP:
        image = Image.fromarray(np.asarray(image, dtype=np.float32))
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR), note


def _one_type(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int32)
