"""The two-dimensional sets of MedMNIST, each a ``.npz`` file with its three parts."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cheaplip.data.named.files import RELOAD, download, own
from cheaplip.data.named.official import Official, Part
from cheaplip.data.npz.reader import npz_pairs
from cheaplip.errors import DataError

__all__ = ["NAMES", "read_medmnist"]

_URL = "https://zenodo.org/record/6496656/files/"


class _Set(NamedTuple):
    """The MD5 of a set's file, the channels of its images, and its classes."""

    md5: str
    channels: int
    classes: tuple[str, ...]


_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
_SETS = {
    "pathmnist": _Set(
        "a8b06965200029087d5bd730944a56c1",
        3,
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
    ),
    "dermamnist": _Set(
        "0744692d530f8e62ec473284d019b0c7",
        3,
        (
            *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma"),
            *("benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        ),
    ),
    "octmnist": _Set(
        "c68d92d5b585d8d81f7112f81e2d0842",
        1,
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    "pneumoniamnist": _Set("28209eda62fecd6e6a2d98b1501bb15f", 1, ("normal", "pneumonia")),
    "retinamnist": _Set("bd4c0672f1bba3e3a89f0e4e876791e4", 3, ("0", "1", "2", "3", "4")),
    "breastmnist": _Set("750601b1f35ba3300ea97c75c52ff8f6", 1, ("malignant", "normal, benign")),
    "bloodmnist": _Set(
        "7053d0359d879ad8a5505303e11de1dc",
        3,
        (
            *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte"),
            *("neutrophil", "platelet"),
        ),
    ),
    "tissuemnist": _Set(
        "ebe78ee8b05294063de985d821c1c34b",
        1,
        (
            *("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
            *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
            "thick ascending limb",
        ),
    ),
    "organamnist": _Set("866b832ed4eeba67bfb9edee1d5544e6", 1, _ORGANS),
    "organcmnist": _Set("0afa5834fb105f7705a7d93372119a21", 1, _ORGANS),
    "organsmnist": _Set("e5c39f1af030238290b9557d9503af9d", 1, _ORGANS),
}
_MANY_LABELS = "chestmnist"
NAMES = (*_SETS, _MANY_LABELS)
"""The two-dimensional sets; one of them is refused, because its images have several labels at once."""


def read_medmnist(name: str) -> Official:
    """Read a set of MedMNIST, with the three parts that its authors give.

    The file is ``$CHEAPLIP_DATA/NAME.npz`` or ``$CHEAPLIP_DATA/NAME/NAME.npz`` if there is one; it may hold other
    images than the official one, which is noted. Otherwise it is downloaded once, from ``$CHEAPLIP_DATA_URL/NAME`` if
    that is set, and must match its checksum. The five grades of ``retinamnist`` are read as classes.

    Args:
        name: one of ``NAMES``.

    Raises:
        DataError: the set has several labels for an image, or the file is missing, damaged or another one's.

    Reference:
        Yang et al.: MedMNIST v2, a large-scale lightweight benchmark for 2D and 3D biomedical image classification,
        2023. Classes and checksums are those of its package, version 2.1.0.
    """
    if name == _MANY_LABELS:
        raise DataError(
            f"{name}: expected one class for each image, got a set with 14 labels at once; save one of its columns "
            "with np.savez(path, x=images, y=labels[:, k]), or take another set"
        )
    wanted = _SETS[name]
    path = own((f"{name}.npz", f"{name}/{name}.npz"))
    notes: tuple[str, ...] = ()
    if path is None:
        path = download(name, f"{name}.npz", f"{_URL}{name}.npz?download=1", f"md5:{wanted.md5}")
    elif not _is_official(path, wanted.md5):
        notes = (f"a file of your own under the name of {name}, not the official one",)
    parts = _read(path)
    train, validation, test = (_part(path, wanted, part, *arrays) for part, arrays in parts.items())
    return Official(train, test, validation, classes=len(wanted.classes), class_names=wanted.classes, notes=notes)


def _is_official(path: Path, md5: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the file and its permissions") from error


def _read(path: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    keys = {part: (f"{part}_images", f"{part}_labels") for part in ("train", "val", "test")}
    held, found = npz_pairs(path, lambda _: keys, remedy=RELOAD)
    if missing := [key for pair in keys.values() for key in pair if key not in held]:
        raise DataError(
            f"{path}: expected the arrays of a MedMNIST file, got no {', '.join(missing)} among {', '.join(held)}; "
            f"{RELOAD}"
        )
    return found


def _part(path: Path, wanted: _Set, part: str, x: NDArray[Any], y: NDArray[Any]) -> Part:
    """Check the images and labels of a part, and bring them to (N, C, H, W) and (N,)."""
    where = f"{path}, {part}"
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    channels = 1 if x.ndim == 3 else x.shape[-1]
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size or channels != wanted.channels:
        form = "(N, H, W)" if wanted.channels == 1 else f"(N, H, W, {wanted.channels})"
        raise DataError(
            f"{where}: expected images {form} of bytes, N ≥ 1, got {x.dtype} {x.shape}; is it the file of another set?"
        )
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise DataError(
            f"{where}: expected one label for each of the {len(x)} images, got {y.dtype} {y.shape}; {RELOAD}"
        )
    outside = (y < 0) | (y >= len(wanted.classes))
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"{where}: expected labels from 0 to {len(wanted.classes) - 1}, got {y[row]} at row {row}; is it the "
            "file of another set?"
        )
    images = x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return Part(images, y.astype(np.uint8))
