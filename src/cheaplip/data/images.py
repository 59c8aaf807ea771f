"""The reader of image folders: a folder for each class, every image of the same size."""

from pathlib import Path
from typing import Any

import numpy as np

from cheaplip.data.arrays import RawData
from cheaplip.errors import DataError

__all__ = ["read_images"]

_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")


def read_images(folder: Path) -> RawData:
    """Read the images in a folder that holds a folder for each class.

    Hidden files are skipped. If every image is grey, there is one channel (C = 1), otherwise red, green and blue.

    Args:
        folder: the folder of folders; classes are numbered in the alphabetical order of the folders' names.

    Returns:
        Images (N, C, H, W) as bytes, classes (N,), and the folders' names.

    Raises:
        DataError: a file is broken, has another size than the first one, or is not an image of 8 bits without
            transparency; the message names the file.
        ImportError: pillow is missing.
    """
    classes = _visible(folder)
    if loose := [path for path in classes if not path.is_dir()]:
        raise DataError(f"{loose[0]}: expected a folder for each class in {folder}, got a file; move it")
    files = [(path, number) for number, kind in enumerate(classes) for path in _visible(kind)]
    if empty := [kind for kind in classes if not _visible(kind)]:
        raise DataError(f"{empty[0]}: expected images in the folder of a class, got none; add some, or remove it")
    if not files:
        raise DataError(f"{folder}: expected a folder of images for each class, got an empty folder")
    images = [_read(path) for path, _ in files]
    mode = "L" if all(image.mode in _GREY for image in images) else "RGB"
    first = images[0].size
    for (path, _), image in zip(files, images, strict=True):
        if image.size != first:
            raise DataError(
                f"{path}: expected {first[0]} × {first[1]} pixels, as {files[0][0]}, got {image.size[0]} × "
                f"{image.size[1]}; resize it"
            )
    x = np.stack([np.asarray(image.convert(mode), dtype=np.uint8) for image in images])
    x = x[:, None] if mode == "L" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    y = np.array([number for _, number in files], dtype=np.int64)
    return RawData(x, y, classes=tuple(kind.name for kind in classes))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read(path: Path) -> Any:
    """Decode an image, and rotate it as its camera recorded."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ImportError("folders of images need pillow: pip install 'cheaplip[images]'") from error
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except Exception as error:  # a damaged file may raise almost anything
        raise DataError(f"{path}: expected an image, which cannot be read: {error}; replace or remove it") from error
    if image.mode not in (*_GREY, *_COLOUR):
        raise DataError(
            f"{path}: expected grey or colour in 8 bits, without transparency, got mode {image.mode}; convert it"
        )
    return image
