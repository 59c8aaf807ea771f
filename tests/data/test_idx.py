"""IDX files: what is read, the official files, and what is said of damaged ones."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cheaplip.data import load
from cheaplip.data.named import idx
from cheaplip.data.named import mnist as official
from cheaplip.errors import DataError
from data_files import FILES, TRAIN_IMAGES, TRAIN_LABELS, idx_bytes, refuses, repack, small_mnist

NEEDS_REAL_DATA = pytest.mark.skipif(
    not os.environ.get("CHEAPLIP_DATA"), reason="set CHEAPLIP_DATA to a folder with mnist/ and fashion-mnist/"
)


@NEEDS_REAL_DATA
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_official_sets(name: str) -> None:
    found = load(name)
    assert (found.name, found.shape, found.classes, repr(found.domain)) == (name, (1, 28, 28), 10, "Box(0, 1)")
    assert [len(part.x) for part in (found.train, found.validation, found.test)] == [55_000, 5_000, 10_000]
    assert (found.epsilon, found.noise) == (2.0, 1.0)
    assert found.test.y[:5].tolist() == {"mnist": [7, 2, 1, 0, 4], "fashion-mnist": [9, 2, 1, 1, 6]}[name]


@NEEDS_REAL_DATA
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("file", FILES)
def test_the_checksums_are_those_of_the_official_files(name: str, file: str) -> None:
    path = official._locate(name, file)
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    assert hashlib.sha256(content).hexdigest() == official._CHECKSUMS[name][file]


@pytest.mark.parametrize("compress", [True, False], ids=["gz", "plain"])
def test_a_folder_of_idx_files(compress: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_mnist(tmp_path / "fashion-mnist", compress=compress)
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path))
    found = load("fashion-mnist", validation=0.25)
    assert [len(part.x) for part in (found.train, found.validation, found.test)] == [90, 30, 30]
    content = (folder / f"{FILES[2]}{'.gz' if compress else ''}").read_bytes()
    content = gzip.decompress(content) if compress else content
    pixels = torch.tensor(list(content[16:]), dtype=torch.float32).reshape(30, 1, 28, 28)
    assert torch.equal(found.test.x, pixels / 255)
    assert found.test.y.tolist() == [i % 10 for i in range(30)]


@settings(max_examples=50)
@given(
    array=st.integers(1, 4).flatmap(
        lambda n: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=n, max_dims=n, min_side=0))
    ),
    compress=st.booleans(),
)
def test_what_is_written_is_read(array: np.ndarray, compress: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "array"
    path.write_bytes(gzip.compress(idx_bytes(array)) if compress else idx_bytes(array))
    found = idx.read(path, dimensions=array.ndim)
    assert found.shape == array.shape
    assert np.array_equal(found, array)


@settings(max_examples=100)
@given(content=st.binary(max_size=40), keep=st.floats(0, 1, exclude_max=True), compress=st.booleans())
def test_a_part_of_a_file_is_never_read(
    content: bytes, keep: float, compress: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = idx_bytes(np.frombuffer(content, np.uint8))
    whole = gzip.compress(whole) if compress else whole
    path = tmp_path_factory.getbasetemp() / "part"
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DataError, match="truncated: "):
        idx.read(path, dimensions=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda b: b[:-1],
            "truncated: expected 94096 bytes for 120 x 28 x 28 entries, got 94095; copy or download it again",
            id="truncated",
        ),
        pytest.param(
            lambda b: b + b"\0",
            "has trailing bytes: expected 94096 bytes for 120 x 28 x 28 entries, got 94097",
            id="trailing",
        ),
        pytest.param(lambda b: b[:10], "truncated: expected a header of 16 bytes, got 10", id="header"),
        pytest.param(lambda b: b"", "truncated: expected a header of 16 bytes, got 0", id="empty"),
        pytest.param(
            lambda b: b"\0\0\x0d\x03" + b[4:],
            "expected an IDX file of images (magic number 0x00000803), got another kind of file (0x00000d03)",
            id="floats",
        ),
        pytest.param(
            lambda b: b"<html>" + b,
            "expected an IDX file of images (magic number 0x00000803), got another kind of file (0x3c68746d)",
            id="web page",
        ),
        pytest.param(
            lambda b: idx_bytes(np.arange(120) % 10),
            "expected an IDX file of images (magic number 0x00000803), "
            "got a file of labels (0x00000801); check that the files were not swapped",
            id="swapped",
        ),
        pytest.param(
            lambda b: idx_bytes(np.zeros((120, 32, 32))),
            "expected images of 28 x 28 pixels, got 32 x 32; is it a file of mnist?",
            id="size",
        ),
        pytest.param(
            lambda b: idx_bytes(np.zeros((0, 28, 28))), "expected at least one image, got none", id="no images"
        ),
    ],
)
def test_an_images_file_with_wrong_content(change: Callable[[bytes], bytes], message: str, mnist: Path) -> None:
    path = mnist / f"{TRAIN_IMAGES}.gz"
    repack(path, change)
    with refuses(f"{path}: {message}"):
        load("mnist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda b: idx_bytes(np.arange(119) % 10), "expected one label for each of the 120 images in ", id="count"
        ),
        pytest.param(
            lambda b: b[:-1] + b"\x0a",
            "expected labels from 0 to 9, got 10 at row 119; copy or download it again",
            id="range",
        ),
        pytest.param(
            lambda b: idx_bytes(np.zeros((120, 28, 28))),
            "expected an IDX file of labels (magic number 0x00000801), got a file of images (0x00000803)",
            id="swapped",
        ),
    ],
)
def test_a_labels_file_with_wrong_content(change: Callable[[bytes], bytes], message: str, mnist: Path) -> None:
    path = mnist / f"{TRAIN_LABELS}.gz"
    repack(path, change)
    with refuses(f"{path}: {message}"):
        load("mnist")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda b: b[: len(b) // 2],
            "truncated: the compressed file ends too early; copy or download it again",
            id="truncated",
        ),
        pytest.param(lambda b: b[:-4], "truncated: the compressed file ends too early", id="no length"),
        pytest.param(lambda b: b[:500] + b"\xff" * 100 + b[600:], "corrupted: ", id="flipped"),
        pytest.param(lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "corrupted: CRC check failed", id="crc"),
        pytest.param(lambda b: b + b"more", "corrupted: Not a gzipped file", id="trailing"),
    ],
)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_gz(file: str, damage: Callable[[bytes], bytes], message: str, mnist: Path) -> None:
    path = mnist / f"{file}.gz"
    content = path.read_bytes()
    if "labels" in file and message == "corrupted: ":
        content, damage = content[:12] + b"\xff" * 8 + content[20:], lambda b: b
    path.write_bytes(damage(content))
    with refuses(f"{path}: {message}"):
        load("mnist")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(file: str, mnist: Path) -> None:
    (mnist / f"{file}.gz").unlink()
    with refuses(f"{mnist}: expected the file {file}.gz, or {file}; add it, or unset CHEAPLIP_DATA to download it"):
        load("mnist")


def test_a_file_that_cannot_be_read(mnist: Path) -> None:
    path = mnist / TRAIN_IMAGES
    path.mkdir()
    with refuses(f"{path}: cannot be read: Is a directory; check the file and its permissions"):
        load("mnist")


def test_a_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "none"))
    with refuses(
        f"CHEAPLIP_DATA={tmp_path / 'none'}: no such folder; set it to the folder that holds mnist/, or unset it"
    ):
        load("mnist")


def test_the_test_set_under_the_training_sets_name(mnist: Path, known: dict[str, str]) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        (mnist / f"t10k-{kind}-ubyte.gz").rename(mnist / f"train-{kind}-ubyte.gz")
    path = mnist / f"{TRAIN_IMAGES}.gz"
    with refuses(
        f"{path}: mislabelled: its content is that of mnist/t10k-images-idx3-ubyte; put each file under its own"
    ):
        load("mnist")


def test_mnist_in_the_folder_of_fashion_mnist(mnist: Path, known: dict[str, str]) -> None:
    mnist.rename(mnist.parent / "fashion-mnist")
    with refuses("mislabelled: its content is that of mnist/train-images-idx3-ubyte"):
        load("fashion-mnist")


def test_known_content_under_a_name_of_ones_own(mnist: Path, known: dict[str, str]) -> None:
    path = (mnist / f"{TRAIN_LABELS}.gz").rename(mnist / "mine.gz")
    assert len(idx.read(path, dimensions=1)) == 120
