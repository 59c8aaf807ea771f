"""Sources, options and arrays that cannot be used: each message names the place and the remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cheaplip.data import Reading, load
from data_files import blobs, refuses, save_npz


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "mnits",
            "unknown data 'mnits': expected digits, mnist, fashion-mnist, kmnist, emnist-letters, cifar-10, "
            "pneumoniamnist or another 2-D MedMNIST set, a .npz or .csv file, "
            "a folder of images by class, or package.module:function; did you mean 'mnist'?",
            id="typo",
        ),
        pytest.param("MNIST", "did you mean 'mnist'?", id="case"),
        pytest.param("fashionmnist", "did you mean 'fashion-mnist'?", id="hyphen"),
        pytest.param("quite else", "unknown data 'quite else': expected digits, mnist,", id="nothing close"),
        pytest.param("none.npz", "none.npz: no such file; check the path", id="npz"),
        pytest.param("none.csv", "none.csv: no such file; check the path", id="csv"),
        pytest.param(
            "no_such_module:make", "cannot import 'no_such_module:make': No module named 'no_such_module'", id="module"
        ),
        pytest.param(":make", "cannot import ':make'", id="no module"),
    ],
)
def test_an_unknown_source(source: str, message: str) -> None:
    with refuses(message):
        load(source)


@pytest.mark.parametrize("options", [{}, {"label": "y"}, {"reading": Reading.parse(separator=";")}], ids=str)
@pytest.mark.parametrize("name", ["ok.xlsx", "ok.json", "ok.txt", "ok"])
def test_a_file_of_another_kind_with_any_options(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with refuses("ends in .npz, .csv, .tsv, .csv.gz, .tsv.gz, .parquet, got another; save it as one of them"):
        load(str(tmp_path / name), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"validation": 0.0}, "validation: expected a fraction in (0, 1), got 0.0", id="none to validate"),
        pytest.param({"test": 1.0}, "test: expected a fraction in (0, 1), got 1.0", id="all to test"),
        pytest.param({"test": float("nan")}, "test: expected a fraction in (0, 1), got nan", id="nan"),
        pytest.param(
            {"test": 0.5, "validation": 0.5},
            "validation + test: expected less than 1, to leave some for training, got 1",
            id="none to train",
        ),
        pytest.param({"split_seed": -1}, "split_seed: expected an integer from 0 to 2**32 - 1, got -1", id="seed"),
        pytest.param(
            {"label": "kind"},
            "label='kind': expected only with a table (.csv, .tsv, .csv.gz, .tsv.gz, .parquet or a data frame) or a "
            ".npz file, got 'digits'; leave it out",
            id="label",
        ),
        pytest.param(
            {"validation": 0.001},
            "digits: cannot split off 2 of 1797 samples (a fraction of 0.001) with all 10 classes",
            id="too few to validate",
        ),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with refuses(message):
        load("digits", **options)


X, Y = blobs()


def spoilt(x: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    x = x.copy()
    x[place] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param(
            {"x": X, "kind": Y},
            "expected arrays named x and y, got x, kind; write them with np.savez(path, x=x, y=y), or name the "
            "labels with label=, --label on the command line (names that are known: x, data, image, images, imgs, "
            "feature, features, input, inputs and y, target, targets, label, labels; for a given split "
            "x_train, y_train, x_test, y_test and such)",
            id="no y",
        ),
        pytest.param(
            {"x": X, "label": Y, "targets": Y},
            "expected arrays named x and y, got x, label, targets; write them",
            id="two of labels",
        ),
        pytest.param({}, "expected arrays named x and y, got none", id="no arrays"),
        pytest.param(
            {"x": X.astype(object), "y": Y},
            "Object arrays cannot be loaded when allow_pickle=False; expected arrays of numbers",
            id="objects",
        ),
        pytest.param({"x": X.astype(str), "y": Y}, "expected x to hold numbers, got <U", id="strings"),
        pytest.param({"x": X.astype(complex), "y": Y}, "expected x to hold numbers, got complex128", id="complex"),
        pytest.param(
            {"x": X[:, 0], "y": Y},
            "expected x of shape (N, *input), with at least one sample and feature, got (60,)",
            id="no features",
        ),
        pytest.param(
            {"x": X[:0], "y": Y[:0]},
            "expected x of shape (N, *input), with at least one sample and feature, got (0, 3)",
            id="no samples",
        ),
        pytest.param(
            {"x": X[:, :0], "y": Y},
            "expected x of shape (N, *input), with at least one sample and feature, got (60, 0)",
            id="zero features",
        ),
        pytest.param(
            {"x": spoilt(spoilt(X, (7, 2), np.nan), (9, 0), np.inf), "y": Y},
            "expected finite numbers, got NaN or Inf in 2 of 180 places, the first at row 7, column 2; fill them "
            "in, such as with medians, x = np.where(np.isnan(x), np.nanmedian(x, axis=0), x), or drop the rows",
            id="nan and inf",
        ),
        pytest.param(
            {"x": spoilt(X.reshape(-1, 1, 3), (7, 0, 2), np.nan), "y": Y},
            "the first at row 7, column 0, 2",
            id="nan in an image",
        ),
        pytest.param(
            {"x": spoilt(X.astype(float), (5, 1), 1e300), "y": Y},
            "got NaN or Inf in 1 of 180 places, the first at row 5, column 1; they are infinite, or too large for "
            "float32: correct them, or drop the rows",
            id="beyond float32",
        ),
        pytest.param(
            {"x": X, "y": Y[:-1]},
            "expected y to hold the classes 0, 1, …, one integer per sample: shape (60,) to go with x, got (59,)",
            id="lengths",
        ),
        pytest.param({"x": X, "y": np.eye(3)[Y]}, "shape (60,) to go with x, got (60, 3)", id="one-hot"),
        pytest.param({"x": X, "y": Y - 1}, "got -1 at row 0; number the classes from 0", id="marks of no label"),
        pytest.param({"x": X, "y": Y + 0.5}, "got 0.5 at row 0; number the classes from 0", id="fraction"),
        pytest.param({"x": X, "y": spoilt(Y.astype(float), (4,), np.nan)}, "got nan at row 4", id="nan label"),
        pytest.param(
            {"x": X, "y": spoilt(Y.astype(float), (4,), np.inf)},
            "got none of class 3 and a largest of inf",
            id="inf label",
        ),
        pytest.param({"x": X, "y": spoilt(Y, (0,), 10**12)}, "got 1 of class '1000000000000'; add samples", id="huge"),
        pytest.param(
            {"x": X, "y": np.arange(60) + 7},
            "got 1 of class '7'; add samples, or drop the class; if the 60 different labels are numbers to predict, "
            "use --task regression",
            id="numbers to predict",
        ),
        pytest.param(
            {"x": X, "y": np.array(["cat", "", "dog"])[Y]},
            "arrays.npz, row 1: expected a class in array 'y', got an empty cell (and 19 more); fill it in",
            id="missing name",
        ),
        pytest.param(
            {"x": X, "y": np.array(["cat", "dog"])[Y // 2][:-1]},
            "shape (60,) to go with x, got (59,)",
            id="lengths, names",
        ),
        pytest.param(
            {"x": X, "y": np.array(["cat", "dog"], dtype=object)[Y // 2]},
            "expected arrays of numbers, or of texts as labels, which y.astype(str) makes of objects, written by",
            id="names as objects",
        ),
        pytest.param({"x": X, "y": 0 * Y + 7}, "at least two classes, got only class 0 ('7')", id="one class, 7"),
        pytest.param(
            {"x": X, "y": 0 * Y},
            "expected at least two classes, got only class 0; add the others' samples",
            id="one class",
        ),
        pytest.param(
            {"x": X, "y": spoilt(Y, (0,), 3)},
            "expected at least 3 samples of every class, one for each part of the split, "
            "got 1 of class 3; add samples, or drop the class",
            id="single sample",
        ),
    ],
)
def test_arrays_that_cannot_be_used(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    source = save_npz(tmp_path, **arrays)
    with refuses(message) as caught:
        load(source)
    assert str(caught.value).startswith(source)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.uint64, np.float64])
def test_integer_labels_of_any_type(kind: type, tmp_path: Path) -> None:
    found = load(save_npz(tmp_path, x=X, y=(Y % 2).astype(kind)))
    assert (found.classes, found.train.y.dtype) == (2, torch.int64)


def test_a_class_that_is_used_up_before_the_last_part(tmp_path: Path) -> None:
    source = save_npz(tmp_path, x=X, y=np.repeat([0, 1], [57, 3]))
    with refuses("cannot split off 6 of 60 samples (a fraction of 0.1) with all 2 classes in every part"):
        load(source, test=0.6)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"x,y\n1,2\n", lambda content: b""],
    ids=["truncated", "not a zip", "empty"],
)
def test_a_damaged_npz(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=X, y=Y))
    path.write_bytes(damage(path.read_bytes()))
    with refuses(f"{path}: cannot be read: "):
        load(str(path))


def test_an_npz_compressed_in_an_unknown_way(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=X, y=Y))
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")  # of the central directory; the method is in its bytes 10 and 11
    path.write_bytes(content[: entry + 10] + b"\x63" + content[entry + 11 :])
    with refuses(f"{path}: cannot be read: That compression method is not supported; expected arrays of numbers"):
        load(str(path))


def test_an_npz_with_a_flipped_byte(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=X, y=Y))
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with refuses(f"{path}: cannot be read: Bad CRC-32"):
        load(str(path))
