"""Data by name beside MNIST: CIFAR-10, MedMNIST, KMNIST and the letters of EMNIST, in files of their formats."""

import errno
import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cheaplip.data import load
from cheaplip.data.named import cifar, medmnist, mnist
from data_files import idx_bytes, refuses, small_mnist

TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]
PNEUMONIA = Path(os.environ.get("CHEAPLIP_DATA", "")) / "pneumoniamnist.npz"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """$CHEAPLIP_DATA, empty, and no way to the network."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("CHEAPLIP_DATA_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "home"


def records(count, seed):
    """Records of CIFAR-10, with labels 0, 1, …, 9, 0, …"""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(count, 3072), dtype=np.uint8)
    return np.hstack([(np.arange(count, dtype=np.uint8) % 10)[:, None], pixels])


def small_cifar(folder, count=20):
    folder.mkdir(parents=True)
    for seed, file in enumerate([*TRAIN, "test_batch.bin"]):
        (folder / file).write_bytes(records(count, seed).tobytes())
    return folder


def small_medmnist(path, classes=2, channels=1, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("val", 10), ("test", 20)):
        shape = (count, 28, 28) if channels == 1 else (count, 28, 28, channels)
        arrays[f"{part}_images"] = rng.integers(256, size=shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return arrays


def small_letters(folder):
    """Letters as EMNIST has them: columns before rows, numbered from 1."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    upright = {}
    for part, count in (("train", 260), ("test", 52)):
        images = upright[part] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        for kind, array in (
            ("images-idx3", images.transpose(0, 2, 1)),
            ("labels-idx1", 1 + np.arange(count) % 26),
        ):
            (folder / f"emnist-letters-{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return upright


def pack(folder, archive, name):
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, arcname=name)


@pytest.mark.parametrize("below", ["cifar-10", "cifar-10/cifar-10-batches-bin", "cifar-10-batches-bin"])
def test_cifar_unpacked(home, below):
    small_cifar(home / below)
    data = load("cifar-10")
    assert (data.shape, data.classes, data.class_names[3], repr(data.domain)) == ((3, 32, 32), 10, "cat", "Box(0, 1)")
    assert [len(part.x) for part in (data.train, data.validation, data.test)] == [90, 10, 20]
    pixels = torch.from_numpy(records(20, 5)[:, 1:].reshape(20, 3, 32, 32))
    assert torch.equal(data.test.x, pixels / 255)
    assert data.test.y.tolist() == [*range(10), *range(10)]


def test_cifar_keeps_channels_apart(home):
    folder = small_cifar(home / "cifar-10")
    red = np.zeros((10, 3073), dtype=np.uint8)
    red[:, 0] = range(10)
    red[:, 1:1025] = 255
    (folder / "test_batch.bin").write_bytes(red.tobytes())
    assert load("cifar-10").test.x.mean((0, 2, 3)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("place", ["cifar-10/cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz"])
def test_cifar_as_an_archive(home, tmp_path, place):
    small_cifar(tmp_path / "unpacked")
    (home / place).parent.mkdir(exist_ok=True)
    pack(tmp_path / "unpacked", home / place, "cifar-10-batches-bin")
    assert len(load("cifar-10").test.x) == 20
    assert sorted(path.name for path in home.rglob("*") if path.is_file()) == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda b: b[: len(b) // 2], "truncated: the compressed file ends too early", id="half"),
        pytest.param(lambda b: b[:5000] + b"\xff" * 50 + b[5050:], "corrupted: ", id="flipped"),
        pytest.param(lambda b: b"<html>no such file</html>", "truncated or corrupted: ", id="web page"),
        pytest.param(lambda b: b"", "truncated or corrupted: ", id="empty"),
    ],
)
def test_a_damaged_archive_of_cifar(home, tmp_path, damage, message):
    small_cifar(tmp_path / "unpacked")
    archive = home / "cifar-10-binary.tar.gz"
    pack(tmp_path / "unpacked", archive, "cifar-10-batches-bin")
    archive.write_bytes(damage(archive.read_bytes()))
    with refuses(f"{archive}: {message}") as caught:
        load("cifar-10")
    assert str(caught.value).endswith("; copy or download it again")


def test_an_archive_without_the_test_part(home, tmp_path):
    (small_cifar(tmp_path / "unpacked") / "test_batch.bin").unlink()
    pack(tmp_path / "unpacked", home / "cifar-10-binary.tar.gz", "cifar-10-batches-bin")
    with refuses("cifar-10-binary.tar.gz: expected test_batch.bin in it, got none; copy or download it again"):
        load("cifar-10")


@pytest.mark.parametrize("file", [TRAIN[0], TRAIN[4], "test_batch.bin"])
def test_a_half_unpacked_folder(home, file):
    (small_cifar(home / "cifar-10") / file).unlink()
    with refuses(f"{home / 'cifar-10' / file}: no such file, beside others of cifar-10; unpack the archive again"):
        load("cifar-10")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3073 * 20 - 1, "truncated or another kind of file: expected a multiple of 3073 bytes"),
        (3073 * 7, "truncated: expected 20 images, as in the other training files, got 7"),
        (0, "truncated or another kind of file: expected a multiple of 3073 bytes"),
    ],
    ids=["in a record", "between records", "empty"],
)
def test_a_half_unpacked_file(home, size, message):
    path = small_cifar(home / "cifar-10") / TRAIN[2]
    path.write_bytes(path.read_bytes()[:size])
    with refuses(f"{path}: {message}"):
        load("cifar-10")


def test_a_label_outside_the_ten(home):
    path = small_cifar(home / "cifar-10") / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    with refuses(f"{path}: expected labels from 0 to 9, got 10 at row 1; is it a file of cifar-10?"):
        load("cifar-10")


def test_an_empty_folder_of_cifar(home):
    (home / "cifar-10").mkdir()
    with refuses(f"{home / 'cifar-10'}: expected data_batch_1.bin and the other files of cifar-10-batches-bin, or"):
        load("cifar-10")


def test_a_set_of_medmnist_has_its_own_split(home):
    arrays = small_medmnist(home / "pneumoniamnist.npz")
    data = load("pneumoniamnist")
    assert (data.name, data.shape, data.class_names) == ("pneumoniamnist", (1, 28, 28), ("normal", "pneumonia"))
    for part, name in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        assert torch.equal(part.x[:, 0], torch.from_numpy(arrays[f"{name}_images"]) / 255)
        assert part.y.tolist() == arrays[f"{name}_labels"][:, 0].tolist()
    assert "a file of your own under the name of pneumoniamnist" in data.recipe.description[1]
    assert data.recipe.description[2].endswith("as the source gives them")


def test_the_official_file_is_known_by_its_checksum(home, monkeypatch):
    small_medmnist(home / "pneumoniamnist.npz")
    digest = hashlib.md5((home / "pneumoniamnist.npz").read_bytes()).hexdigest()
    wanted = medmnist._SETS["pneumoniamnist"]._replace(md5=digest)
    monkeypatch.setitem(medmnist._SETS, "pneumoniamnist", wanted)
    assert load("pneumoniamnist").recipe.description[1] == "read with: the usual settings"


@pytest.mark.skipif(not PNEUMONIA.is_file(), reason="set CHEAPLIP_DATA to a folder with pneumoniamnist.npz")
def test_pneumoniamnist(monkeypatch):
    monkeypatch.setenv("CHEAPLIP_DATA", str(PNEUMONIA.parent))
    data = load("pneumoniamnist")
    assert (len(data.validation.x), len(data.test.x)) == (524, 624)
    assert data.test.y.bincount().tolist() == [234, 390]


def test_colour_is_moved_to_the_front(home):
    arrays = small_medmnist(home / "bloodmnist.npz", classes=8, channels=3)
    data = load("bloodmnist")
    assert torch.equal(data.test.x, torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2) / 255)


def test_grades_are_classes(home):
    small_medmnist(home / "retinamnist.npz", classes=5, channels=3)
    assert load("retinamnist").classes == 5


def test_fewer_classes_in_a_file_than_the_set_has(home):
    small_medmnist(home / "retinamnist.npz", classes=3, channels=3)
    assert load("retinamnist").classes == 5


def test_several_labels_for_an_image_are_refused():
    with refuses("chestmnist: expected one class for each image, got a set with 14 labels at once; save one") as caught:
        load("chestmnist")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"test_images": np.zeros((20, 28, 28, 3), np.uint8)},
            "pneumoniamnist.npz, test: expected images (N, H, W) of bytes, N ≥ 1, got uint8 (20, 28, 28, 3); is it the "
            "file of another set?",
            id="channels",
        ),
        pytest.param({"val_labels": None}, "pneumoniamnist.npz: expected the arrays of a MedMNIST file, got no val_l"),
        pytest.param(
            {"train_labels": np.zeros((39, 1), np.uint8)},
            "train: expected one label for each of the 40 images, got uint8 (39,)",
            id="count",
        ),
        pytest.param(
            {"train_labels": np.zeros((40, 14), np.uint8)},
            "train: expected one label for each of the 40 images, got uint8 (40, 14)",
            id="several labels",
        ),
        pytest.param(
            {"test_labels": np.full((20, 1), 2, np.uint8)},
            "test: expected labels from 0 to 1, got 2 at row 0",
            id="big",
        ),
        pytest.param({"test_images": np.zeros((20, 28, 28))}, "got float64 (20, 28, 28)", id="floats"),
    ],
)
def test_a_file_of_medmnist_with_wrong_content(home, changes, message):
    small_medmnist(home / "pneumoniamnist.npz", **changes)
    with refuses(message):
        load("pneumoniamnist")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_file_of_medmnist(home, keep):
    path = home / "pneumoniamnist.npz"
    small_medmnist(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with refuses(f"{path}: cannot be read: ") as caught:
        load("pneumoniamnist")
    assert str(caught.value).endswith("; copy or download it again")
    assert "\n" not in str(caught.value)


def test_kmnist(home):
    small_mnist(home / "kmnist")
    data = load("kmnist")
    assert (data.shape, data.class_names[:3], len(data.test.x)) == ((1, 28, 28), ("o", "ki", "su"), 30)


def test_mnist_in_the_folder_of_kmnist(home, monkeypatch):
    folder = small_mnist(home / "kmnist", compress=False)
    digest = hashlib.sha256((folder / "train-images-idx3-ubyte").read_bytes()).hexdigest()
    monkeypatch.setattr(mnist, "_CHECKSUMS", {"mnist": {"train-images-idx3-ubyte": digest}})
    with refuses("mislabelled: its content is that of mnist/train-images-idx3-ubyte"):
        load("kmnist")


def test_letters_are_upright_and_numbered_from_0(home):
    upright = small_letters(home / "emnist-letters")
    data = load("emnist-letters")
    assert (data.classes, data.class_names[0], data.class_names[25]) == (26, "a", "z")
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(upright["test"]) / 255)
    assert data.test.y.tolist() == [*range(26), *range(26)]
    assert data.test.x.is_contiguous()


def test_letters_under_the_names_of_mnist(home):
    upright = small_letters(home / "emnist-letters")
    for path in list((home / "emnist-letters").iterdir()):
        path.rename(path.with_name(path.name.removeprefix("emnist-letters-").replace("test-", "t10k-")))
    assert torch.equal(load("emnist-letters").test.x[:, 0], torch.from_numpy(upright["test"]) / 255)


def test_letters_in_the_archive(home, tmp_path):
    upright = small_letters(tmp_path / "unpacked")
    (home / "emnist-letters").mkdir()
    with zipfile.ZipFile(home / "emnist-letters" / "gzip.zip", "w") as packed:
        for path in (tmp_path / "unpacked").iterdir():
            packed.write(path, f"gzip/{path.name}")
    assert torch.equal(load("emnist-letters").test.x[:, 0], torch.from_numpy(upright["test"]) / 255)


def test_a_truncated_archive_of_letters(home):
    (home / "emnist-letters").mkdir()
    archive = home / "emnist-letters" / "gzip.zip"
    archive.write_bytes(b"PK\3\4 and no more")
    with refuses(f"{archive}: truncated or corrupted: File is not a zip file; copy or download it again"):
        load("emnist-letters")


def test_a_letter_numbered_from_0_is_refused(home):
    small_letters(home / "emnist-letters")
    path = home / "emnist-letters" / "emnist-letters-test-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.arange(52) % 26)))
    with refuses(f"{path}: expected labels from 1 to 26, got 0 at row 0"):
        load("emnist-letters")


def test_a_missing_file_of_letters(home):
    small_letters(home / "emnist-letters")
    (home / "emnist-letters" / "emnist-letters-train-labels-idx1-ubyte.gz").unlink()
    with refuses("expected the file emnist-letters-train-labels-idx1-ubyte.gz, or emnist-letters-train-labels-idx1-ub"):
        load("emnist-letters")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar-10", "cifar-10/cifar-10-binary.tar.gz"),
        ("pneumoniamnist", "pneumoniamnist/pneumoniamnist.npz"),
        ("kmnist", "kmnist/train-images-idx3-ubyte.gz"),
        ("emnist-letters", "emnist-letters/gzip.zip"),
    ],
)
def test_without_network_the_remedy_is_named(name, file):
    with refuses("cannot download http://127.0.0.1:1/") as caught:
        load(name)
    assert str(caught.value).endswith(f"; try again, or set CHEAPLIP_DATA to a folder that holds {file}")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("cifar-10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        ("pneumoniamnist", "https://zenodo.org/record/6496656/files/pneumoniamnist.npz?download=1"),
        ("kmnist", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz"),
        ("emnist-letters", "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip"),
    ],
)
def test_the_addresses_of_the_authors(name, url, monkeypatch):
    monkeypatch.delenv("CHEAPLIP_DATA_URL")
    asked = downloads(monkeypatch, OSError("refused"))
    with refuses("refused"):
        load(name)
    assert asked == [url]


def downloads(monkeypatch, content):
    """Answer every download with some content, or raise it; return the list of what is asked for."""
    asked = []

    class Downloader:
        def __init__(self, **options):
            pass

        def __call__(self, url, output_file, pooch):
            asked.append(url)
            if isinstance(content, Exception):
                Path(output_file).write_bytes(b"the first half")
                raise content
            Path(output_file).write_bytes(content)

    monkeypatch.setattr("pooch.HTTPDownloader", Downloader)
    return asked


def test_a_download_is_verified_and_kept(monkeypatch, tmp_path):
    packed = io.BytesIO()
    small_cifar(tmp_path / "unpacked")
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tmp_path / "unpacked", arcname="cifar-10-batches-bin")
    monkeypatch.setattr(cifar, "_CHECKSUM", hashlib.md5(packed.getvalue()).hexdigest())
    asked = downloads(monkeypatch, packed.getvalue())
    first, again = load("cifar-10"), load("cifar-10")
    assert torch.equal(first.test.x, again.test.x)
    assert len(asked) == 1


def test_another_content_is_not_kept(monkeypatch, tmp_path):
    downloads(monkeypatch, b"another file")
    with refuses("expected a file whose content has MD5 c32a1d4ab5d03f1284b67883e8d87530, got another; try again, or"):
        load("cifar-10")
    assert list((tmp_path / "cache" / "cheaplip" / "cifar-10").iterdir()) == []


def test_a_full_disk_leaves_no_part_of_a_file(monkeypatch, tmp_path):
    downloads(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with refuses("the disk is full: ") as caught:
        load("cifar-10")
    assert "make room and try again" in str(caught.value)
    assert list((tmp_path / "cache" / "cheaplip" / "cifar-10").iterdir()) == []


@pytest.mark.parametrize("name", ["cifar-10", "pneumoniamnist"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "standard"}, "comes with a scale and a box of its own"),
        ({"task": "regression"}, "holds classes, not numbers"),
        ({"label": "y"}, "expected only with a table"),
    ],
    ids=["scaling", "task", "label"],
)
def test_options_that_do_not_apply(name, options, message):
    with refuses(message):
        load(name, **options)
