"""Data: what is read, how it is split and described, and what every bad input says."""

import gzip
import hashlib
import os
import re
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cheaplip import Box, CheaplipWarning
from cheaplip.data import Data, Split, idx, load
from cheaplip.data import sources as data
from cheaplip.errors import DataError

NEEDS_REAL_DATA = pytest.mark.skipif(
    not os.environ.get("CHEAPLIP_DATA"), reason="set CHEAPLIP_DATA to a folder with mnist/ and fashion-mnist/"
)
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


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that $CHEAPLIP_DATA/mnist names."""
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path))
    return small_mnist(tmp_path / "mnist")


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


def fail(message: str) -> "pytest.RaisesExc[DataError]":
    return pytest.raises(DataError, match=re.escape(message))


# --- what comes out -------------------------------------------------------------------------------------------------


def test_digits_are_images_in_the_unit_box() -> None:
    digits = load("digits")
    assert (digits.name, digits.shape, digits.classes) == ("digits", (1, 8, 8), 10)
    assert [len(part.x) for part in (digits.train, digits.validation, digits.test)] == [1258, 180, 359]
    assert digits.train.x.dtype == torch.float32
    assert digits.train.y.dtype == torch.int64
    assert repr(digits.domain) == "Box(0, 1)"
    assert digits.train.x.max() == 1
    assert (digits.epsilon, digits.noise) == (0.6, 0.3)


@NEEDS_REAL_DATA
@pytest.mark.parametrize("name", idx.NAMES)
def test_the_official_sets(name: str) -> None:
    found = load(name)
    assert (found.name, found.shape, found.classes, repr(found.domain)) == (name, (1, 28, 28), 10, "Box(0, 1)")
    assert [len(part.x) for part in (found.train, found.validation, found.test)] == [55_000, 5_000, 10_000]
    assert (found.epsilon, found.noise) == (2.0, 1.0)
    assert found.test.y[:5].tolist() == {"mnist": [7, 2, 1, 0, 4], "fashion-mnist": [9, 2, 1, 1, 6]}[name]


@NEEDS_REAL_DATA
@pytest.mark.parametrize("name", idx.NAMES)
@pytest.mark.parametrize("file", FILES)
def test_the_checksums_are_those_of_the_official_files(name: str, file: str) -> None:
    path = idx._locate(name, file)
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    assert hashlib.sha256(content).hexdigest() == idx._CHECKSUMS[name][file]


def test_the_split_is_disjoint_complete_and_in_proportion(tmp_path: Path) -> None:
    x = np.arange(200.0)[:, None]
    y = (np.arange(200) >= 150).astype(int)
    found = load(save_npz(tmp_path, x=x, y=y))
    parts = (found.train, found.validation, found.test)
    assert torch.cat([part.x for part in parts]).flatten().sort().values.tolist() == x.flatten().tolist()
    assert [part.y.bincount().tolist() for part in parts] == [[105, 35], [15, 5], [30, 10]]
    assert all(torch.equal(part.y, (part.x.flatten() >= 150).long()) for part in parts)


@pytest.mark.parametrize("source", ["digits", "mnist"])
def test_the_seed_decides_the_split(source: str, mnist: Path) -> None:
    first, again, other = (load(source, split_seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.validation.x, again.validation.x)
    assert not torch.equal(first.validation.x, other.validation.x)


def test_fractions_are_of_all_samples() -> None:
    digits = load("digits", validation=0.3, test=0.5)
    assert [len(part.x) for part in (digits.train, digits.validation, digits.test)] == [360, 539, 898]


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


def test_bytes_in_an_npz_are_images_in_the_unit_box(tmp_path: Path) -> None:
    x = np.full((20, 2, 2), 51, dtype=np.uint8)
    found = load(save_npz(tmp_path, x=x, y=np.arange(20) % 2))
    assert found.train.x.unique().tolist() == [torch.tensor(0.2).item()]
    assert (found.shape, repr(found.domain)) == ((2, 2), "Box(0, 1)")


def test_the_box_spans_each_feature_over_all_parts(tmp_path: Path) -> None:
    x, y = blobs()
    domain = load(save_npz(tmp_path, x=x, y=y)).domain
    assert domain.low.tolist() == x.min(axis=0).tolist()
    assert domain.high.tolist() == x.max(axis=0).tolist()


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (0.0, 1.5)])
def test_values_beyond_the_unit_interval_have_a_box_of_their_own(low: float, high: float, tmp_path: Path) -> None:
    domain = load(save_npz(tmp_path, x=np.linspace(low, high, 20)[:, None], y=np.arange(20) % 2)).domain
    assert (domain.low.tolist(), domain.high.tolist()) == ([low], [high])


@pytest.mark.parametrize(
    ("constant", "low", "high"), [(7.0, 6.5, 7.5), (-3.0, -3.5, -2.5), (1e9, 1e9 - 1024, 1e9 + 1024)]
)
def test_a_constant_feature_gets_room(constant: float, low: float, high: float, tmp_path: Path) -> None:
    x, y = blobs()
    x[:, 1] = constant
    found = load(save_npz(tmp_path, x=x, y=y))
    assert (found.domain.low[1].item(), found.domain.high[1].item()) == pytest.approx((low, high), rel=1e-6)
    assert all(found.domain.contains(part.x) for part in (found.train, found.validation, found.test))


def test_identical_inputs_still_have_an_epsilon(tmp_path: Path) -> None:
    found = load(save_npz(tmp_path, x=np.ones((20, 2)), y=np.arange(20) % 2))
    assert (found.epsilon, found.noise) == (0.2, 0.1)


def test_epsilon_is_a_fifth_of_the_median_distance_to_one_digit(tmp_path: Path) -> None:
    x, y = blobs(400, (50,), 2)  # the distance of two normal vectors in 50 dimensions is 10, give or take 1
    found = load(save_npz(tmp_path, x=100 * x, y=y))
    assert (found.epsilon, found.noise) == (200.0, 100.0)


def test_csv_labels_of_any_kind_are_numbered_in_order(tmp_path: Path) -> None:
    names = ((0, "apple"), (0, "apple "), (1, '"pear, ripe"'), (1, ' "pear, ripe"'))
    rows = [f"{i},{name}, {size}" for i in range(5) for size, name in names]
    source = save_csv(tmp_path, "\ufeffweight, kind ,size\n" + "\n".join(rows) + "\n\n")
    found = load(source, label="kind")
    assert (found.name, found.shape, found.classes) == ("table.csv", (2,), 2)
    x, y = (torch.cat(ts) for ts in zip(found.train, found.validation, found.test, strict=True))
    assert y.bincount().tolist() == [10, 10]
    assert torch.equal(found.standardisation.inverse(x)[:, 1], y.float())
    assert (found.class_names, found.feature_names) == (("apple", "pear, ripe"), ("weight", "size"))


def test_csv_labels_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    rows = [f"{kind},{kind}" for kind in (10, 9, 200) for _ in range(10)]
    found = load(save_csv(tmp_path, "x,y\n" + "\n".join(rows)), label="y")
    assert {(x.item(), y.item()) for x, y in zip(found.train.x, found.train.y, strict=True)} == {
        (9, 0),
        (10, 1),
        (200, 2),
    }


def test_to_moves_a_copy() -> None:
    box = Box(torch.zeros(2), torch.ones(2))
    part = Split(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))
    here = Data("toy", part, part, part, 2, box, 0.1, 0.05)
    there = here.to("meta")
    assert {t.device.type for t in (*there.train, *there.validation, *there.test, there.domain.low)} == {"meta"}
    assert {t.device.type for t in (*here.train, here.domain.low)} == {"cpu"}


# --- functions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], str]]:
    """Writes a function ``make`` into a module of the current folder and returns how to name it."""
    monkeypatch.chdir(tmp_path)
    name = "made_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]

    def write(body: str) -> str:
        imports = "import torch\nfrom cheaplip import Box\nfrom cheaplip.data import Data, Split\n"
        (tmp_path / f"{name}.py").write_text(imports + body)
        return f"{name}:make"

    yield write
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "x",
    [
        "torch.rand(40, 3).sub(1).numpy()",
        "torch.rand(40, 3).sub(1).tolist()",
        "torch.rand(40, 3).sub(1).requires_grad_()",
        "torch.rand(40, 3, dtype=torch.bfloat16) - 1",
    ],
    ids=["array", "list", "tensor", "bfloat16"],
)
def test_a_function_returns_x_and_y(x: str, module: Callable[[str], str]) -> None:
    path = list(sys.path)
    source = module(f"def make():\n    return {x}, torch.arange(40) % 2")
    found = load(source)
    assert (found.name, found.shape, found.classes) == (source, (3,), 2)
    assert found.train.x.dtype == torch.float32
    assert found.train.x.max() <= 0
    assert sys.path == path


WHOLE = """
def make():
    part = Split(x := {x}, {y})
    return Data("toy", part, part, Split({test}, part.y), 2, {box}, 0.1, 0.05)
"""
GOOD = {"x": "torch.rand(4, 3)", "y": "torch.tensor([0, 1, 0, 1])", "test": "x", "box": "Box(0.0, 1.0)"}


def test_a_function_returns_whole_data(module: Callable[[str], str]) -> None:
    assert load(module(WHOLE.format(**GOOD))).name == "toy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"x": "torch.rand(4, 3).double()"},
            "train: expected x float32 (N, *input) and y int64 (N,), N ≥ 1, got torch.float64 (4, 3)",
            id="dtype",
        ),
        pytest.param(
            {"y": "torch.tensor([0, 1, 0])"},
            "got torch.float32 (4, 3) and torch.int64 (3,)",
            id="lengths",
        ),
        pytest.param(
            {"x": "torch.rand(0, 3)", "y": "torch.arange(0)"},
            "N ≥ 1, got torch.float32 (0, 3) and torch.int64 (0,)",
            id="empty",
        ),
        pytest.param(
            {"test": "torch.rand(4, 2)"}, "test: expected inputs of shape (3,), as in train, got (2,)", id="shape"
        ),
        pytest.param({"y": "torch.tensor([0, 1, 0, 2])"}, "train: expected labels from 0 to 1, got 0 to 2", id="label"),
        pytest.param(
            {"test": "x / 0"},
            "test: expected finite numbers, got NaN or Inf in 12 of 12 places, the first at row 0, column 0",
            id="nan",
        ),
        pytest.param(
            {"test": "x + 2"}, "test: expected every input inside the domain Box(0, 1); widen it", id="outside"
        ),
        pytest.param(
            {"box": "Box(torch.zeros(4), torch.ones(4))"},
            "box.low of shape (4,) does not broadcast to an input of shape (3,)",
            id="box",
        ),
    ],
)
def test_whole_data_is_checked(change: dict[str, str], message: str, module: Callable[[str], str]) -> None:
    source = module(WHOLE.format(**(GOOD | change)))
    with fail(message):
        load(source)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(
            "def other(): ...",
            "has no attribute 'make'; expected package.module:function, installed or importable",
            id="no function",
        ),
        pytest.param(
            "import no_such_thing", "No module named 'no_such_thing'; expected package.module:function", id="its import"
        ),
        pytest.param("def make(:", "invalid syntax", id="syntax"),
        pytest.param(
            "def make():\n    return 1 / 0",
            "raised ZeroDivisionError: division by zero; it is called without arguments",
            id="raises",
        ),
        pytest.param(
            "def make():\n    return torch.rand(4, 3)",
            "expected the function to return (x, y) or a Data, got Tensor",
            id="one thing",
        ),
        pytest.param(
            "def make():\n    return [[1, 2], [3]], [0, 1]",
            "expected arrays of numbers, each row of the same length",
            id="ragged",
        ),
    ],
)
def test_a_function_that_fails(body: str, message: str, module: Callable[[str], str]) -> None:
    path = list(sys.path)
    source = module(body)
    with fail(message) as caught:
        load(source)
    assert source in str(caught.value)
    assert sys.path == path


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(
            "mnits",
            "unknown data 'mnits': expected digits, mnist, fashion-mnist, a .npz or .csv file, "
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
    with fail(message):
        load(source)


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
            {"label": "kind"}, "label='kind': expected only with a .csv file, got 'digits'; leave it out", id="label"
        ),
        pytest.param(
            {"validation": 0.001},
            "digits: cannot split off 2 of 1797 samples (a fraction of 0.001) with all 10 classes",
            id="too few to validate",
        ),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with fail(message):
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
            {"x": X, "labels": Y},
            "expected arrays named x and y, got x, labels; write them with np.savez(path, x=x, y=y)",
            id="no y",
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
            "expected finite numbers, got NaN or Inf in 2 of 180 places, the first at row 7, column 2",
            id="nan and inf",
        ),
        pytest.param(
            {"x": spoilt(X.reshape(-1, 1, 3), (7, 0, 2), np.nan), "y": Y},
            "the first at row 7, column 0, 2",
            id="nan in an image",
        ),
        pytest.param(
            {"x": spoilt(X.astype(float), (5, 1), 1e300), "y": Y},
            "got NaN or Inf in 1 of 180 places, the first at row 5, column 1",
            id="beyond float32",
        ),
        pytest.param(
            {"x": X, "y": Y[:-1]},
            "expected y to hold the classes 0, 1, …, one integer per sample: shape (60,) to go with x, got (59,)",
            id="lengths",
        ),
        pytest.param({"x": X, "y": np.eye(3)[Y]}, "shape (60,) to go with x, got (60, 3)", id="one-hot"),
        pytest.param({"x": X, "y": Y - 1}, "got -1 at row 0; number the classes from 0", id="negative"),
        pytest.param({"x": X, "y": Y + 0.5}, "got 0.5 at row 0; number the classes from 0", id="fraction"),
        pytest.param({"x": X, "y": spoilt(Y.astype(float), (4,), np.nan)}, "got nan at row 4", id="nan label"),
        pytest.param(
            {"x": X, "y": spoilt(Y.astype(float), (4,), np.inf)},
            "got none of class 3 and a largest of inf",
            id="inf label",
        ),
        pytest.param(
            {"x": X, "y": Y + 1},
            "got none of class 0 and a largest of 3; number the classes from 0 without gaps",
            id="from one",
        ),
        pytest.param(
            {"x": X, "y": spoilt(Y, (0,), 10**12)}, "got none of class 3 and a largest of 1000000000000", id="huge"
        ),
        pytest.param({"x": X, "y": Y.astype(str)}, "one integer per sample, got <U", id="names"),
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
    with fail(message) as caught:
        load(source)
    assert str(caught.value).startswith(source)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.uint64, np.float64])
def test_integer_labels_of_any_type(kind: type, tmp_path: Path) -> None:
    found = load(save_npz(tmp_path, x=X, y=(Y % 2).astype(kind)))
    assert (found.classes, found.train.y.dtype) == (2, torch.int64)


def test_a_class_that_is_used_up_before_the_last_part(tmp_path: Path) -> None:
    source = save_npz(tmp_path, x=X, y=np.repeat([0, 1], [57, 3]))
    with fail("cannot split off 6 of 60 samples (a fraction of 0.1) with all 2 classes in every part"):
        load(source, test=0.6)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"x,y\n1,2\n", lambda content: b""],
    ids=["truncated", "not a zip", "empty"],
)
def test_a_damaged_npz(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=X, y=Y))
    path.write_bytes(damage(path.read_bytes()))
    with fail(f"{path}: cannot be read: "):
        load(str(path))


def test_an_npz_compressed_in_an_unknown_way(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=X, y=Y))
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")  # of the central directory; the method is in its bytes 10 and 11
    path.write_bytes(content[: entry + 10] + b"\x63" + content[entry + 11 :])
    with fail(f"{path}: cannot be read: That compression method is not supported; expected arrays of numbers"):
        load(str(path))


def test_an_npz_with_a_flipped_byte(tmp_path: Path) -> None:
    path = Path(save_npz(tmp_path, x=X, y=Y))
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with fail(f"{path}: cannot be read: Bad CRC-32"):
        load(str(path))


LINES = ["size,weight,kind", *(f"{i},{i / 2},{'ab'[i % 2]}" for i in range(12))]


def with_line(number: int, line: str) -> str:
    return "\n".join([*LINES[: number - 1], line, *LINES[number:]])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        pytest.param(
            with_line(1, LINES[0]),
            None,
            "expected the name of the column that holds the classes; "
            "choose one with label=, --label on the command line: size, weight, kind",
            id="no label",
        ),
        pytest.param(
            with_line(1, LINES[0]),
            "sort",
            "expected one column 'sort' in the first line, got the columns size, weight, kind",
            id="unknown label",
        ),
        pytest.param(
            with_line(1, "kind,weight,kind"),
            "kind",
            "expected one column 'kind' in the first line, got the columns kind, weight, kind",
            id="label twice",
        ),
        pytest.param(
            ",".join(map(str, range(30))),
            "y",
            "got the columns 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (30 columns)",
            id="long header",
        ),
        pytest.param("", "kind", "expected one column 'kind' in the first line, got the columns none", id="empty"),
        pytest.param(
            LINES[0],
            "kind",
            "expected x of shape (N, *input), with at least one sample and feature, got (0, 2)",
            id="header only",
        ),
        pytest.param(
            with_line(5, "1,2"), "kind", ", line 5: expected 3 cells, as in the first line, got 2", id="short line"
        ),
        pytest.param(
            with_line(5, "1,2,a,4"), "kind", ", line 5: expected 3 cells, as in the first line, got 4", id="long line"
        ),
        pytest.param(
            with_line(5, "1,big,a"),
            "kind",
            ", line 5, column 'weight': expected a number, got 'big'; encode or drop the column",
            id="word",
        ),
        pytest.param(
            with_line(5, "1,,a"), "kind", ", line 5, column 'weight': expected a number, got ''", id="empty cell"
        ),
        pytest.param(
            with_line(5, "1,2, "),
            "kind",
            ", line 5: expected a class in column 'kind', got an empty cell; fill it in",
            id="empty label",
        ),
        pytest.param(
            with_line(5, "\n1,nan,a"),
            "kind",
            "got NaN or Inf in 1 of 24 places, the first at line 6, column 'weight'",
            id="nan after a blank line",
        ),
        pytest.param(
            with_line(5, "1,2,c"),
            "kind",
            "expected at least 3 samples of every class, one for each part of the split, got 1 of class 2",
            id="single sample",
        ),
    ],
)
def test_a_csv_that_cannot_be_used(text: str, label: str | None, message: str, tmp_path: Path) -> None:
    source = save_csv(tmp_path, text)
    with fail(message) as caught:
        load(source, label=label)
    assert str(caught.value).startswith(source)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    source = save_csv(tmp_path, "\ufeffkind,size\n" + "a,1\nb,2\n" * 10)
    assert load(source, label="kind").classes == 2


def test_a_csv_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with fail(f"{path}: cannot be read: 'utf-8' codec can't decode byte 0xff"):
        load(str(path), label="b")


# --- IDX files ------------------------------------------------------------------------------------------------------


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
    with fail(f"{path}: {message}"):
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
    with fail(f"{path}: {message}"):
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
    with fail(f"{path}: {message}"):
        load("mnist")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(file: str, mnist: Path) -> None:
    (mnist / f"{file}.gz").unlink()
    with fail(f"{mnist}: expected the file {file}.gz, or {file}; add it, or unset CHEAPLIP_DATA to download it"):
        load("mnist")


def test_a_file_that_cannot_be_read(mnist: Path) -> None:
    path = mnist / TRAIN_IMAGES
    path.mkdir()
    with fail(f"{path}: cannot be read: Is a directory; check the file and its permissions"):
        load("mnist")


def test_a_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "none"))
    with fail(
        f"CHEAPLIP_DATA={tmp_path / 'none'}: no such folder; set it to the folder that holds mnist/, or unset it"
    ):
        load("mnist")


@pytest.fixture
def known(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Makes the files in ``mnist`` the official ones."""
    checksums = {f: hashlib.sha256(gzip.decompress((mnist / f"{f}.gz").read_bytes())).hexdigest() for f in FILES}
    monkeypatch.setattr(idx, "_CHECKSUMS", {"mnist": checksums, "fashion-mnist": {f: f"of {f}" for f in FILES}})
    return checksums


def test_the_test_set_under_the_training_sets_name(mnist: Path, known: dict[str, str]) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        (mnist / f"t10k-{kind}-ubyte.gz").rename(mnist / f"train-{kind}-ubyte.gz")
    path = mnist / f"{TRAIN_IMAGES}.gz"
    with fail(f"{path}: mislabelled: its content is that of mnist/t10k-images-idx3-ubyte; put each file under its own"):
        load("mnist")


def test_mnist_in_the_folder_of_fashion_mnist(mnist: Path, known: dict[str, str]) -> None:
    mnist.rename(mnist.parent / "fashion-mnist")
    with fail("mislabelled: its content is that of mnist/train-images-idx3-ubyte"):
        load("fashion-mnist")


def test_known_content_under_a_name_of_ones_own(mnist: Path, known: dict[str, str]) -> None:
    path = (mnist / f"{TRAIN_LABELS}.gz").rename(mnist / "mine.gz")
    assert len(idx.read(path, dimensions=1)) == 120


# --- download -------------------------------------------------------------------------------------------------------


class Server(SimpleHTTPRequestHandler):
    """Serves a folder, keeps count, and breaks off in the middle of files that are listed in ``cut``."""

    requests: list[str]
    cut: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path in self.cut:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture
def served(
    mnist: Path, known: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Server]]:
    """``mnist`` behind a server, an empty cache in ``tmp_path/cache``, and no folder of one's own."""
    handler = type("Handler", (Server,), {"requests": [], "cut": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("CHEAPLIP_DATA_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("CHEAPLIP_DATA", "")
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(variable, "127.0.0.1")
        monkeypatch.setattr(idx.pooch, "os_cache", lambda project: tmp_path / "cache" / project)
        yield handler
        server.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "cheaplip" / "mnist").iterdir())


def test_each_file_is_downloaded_once(served: type[Server], tmp_path: Path) -> None:
    first = load("mnist")
    assert sorted(served.requests) == sorted(f"/mnist/{file}.gz" for file in FILES)
    assert cached(tmp_path) == sorted(FILES)
    again = load("mnist")
    assert len(served.requests) == 4
    assert torch.equal(first.train.x, again.train.x)


def test_a_mirror_may_compress_as_it_likes(served: type[Server], mnist: Path) -> None:
    path = mnist / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    (mnist / f"{TRAIN_LABELS}.gz").write_bytes(gzip.decompress((mnist / f"{TRAIN_LABELS}.gz").read_bytes()))
    assert len(load("mnist").train.x) == 110


def test_a_dataset_the_folder_lacks_is_downloaded(
    served: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "other"))
    load("mnist")
    assert len(served.requests) == 4


REMEDY = "or set CHEAPLIP_DATA to a folder that holds mnist/train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda b: gzip.compress(gzip.decompress(b)[:-1] + b"\1"),
            "expected a file whose content has SHA256 ",
            id="checksum",
        ),
        pytest.param(
            lambda b: b[:-20],
            "truncated: the compressed file ends too early; copy or download it again, " + REMEDY,
            id="truncated",
        ),
        pytest.param(lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "corrupted: CRC check failed", id="corrupted"),
    ],
)
def test_a_bad_download_is_refused(
    damage: Callable[[bytes], bytes], message: str, served: type[Server], mnist: Path, tmp_path: Path
) -> None:
    path = mnist / f"{TRAIN_LABELS}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"http://\S+/mnist/{TRAIN_LABELS}.gz: {re.escape(message)}") as caught:
        load("mnist")
    assert str(caught.value).endswith(REMEDY)
    assert TRAIN_LABELS not in cached(tmp_path)


def test_a_download_that_breaks_off(served: type[Server], tmp_path: Path) -> None:
    served.cut.append(f"/mnist/{TRAIN_LABELS}.gz")
    with pytest.raises(DataError, match=rf"cannot download http://\S+/mnist/{TRAIN_LABELS}.gz: .*try again, {REMEDY}"):
        load("mnist")
    assert cached(tmp_path) == [TRAIN_IMAGES]
    served.cut.clear()
    assert len(load("mnist").train.x) == 110


def test_a_file_the_server_lacks(served: type[Server], mnist: Path, tmp_path: Path) -> None:
    (mnist / f"{TRAIN_LABELS}.gz").unlink()
    with pytest.raises(
        DataError, match=rf"cannot download \S+/{TRAIN_LABELS}.gz: 404 Client Error.*try again, {REMEDY}"
    ):
        load("mnist")
    assert cached(tmp_path) == [TRAIN_IMAGES]


def test_no_server(served: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEAPLIP_DATA_URL", "http://127.0.0.1:1/")
    with fail("cannot download http://127.0.0.1:1/mnist/train-images-idx3-ubyte.gz: "):
        load("mnist")


def test_a_spoilt_cache_is_downloaded_again(served: type[Server], tmp_path: Path) -> None:
    load("mnist")
    path = tmp_path / "cache" / "cheaplip" / "mnist" / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:-1])
    load("mnist")
    assert served.requests[4:] == [f"/mnist/{TRAIN_IMAGES}.gz"]


def test_a_cache_that_cannot_be_written(served: type[Server], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot download \S+: .*cache.*; try again, or set CHEAPLIP_DATA"):
        load("mnist")


def test_the_official_addresses_are_used_without_a_mirror(
    served: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(url: str, *_: object) -> None:
        asked.append(url)
        raise OSError("refused")

    monkeypatch.delenv("CHEAPLIP_DATA_URL")
    monkeypatch.setattr(idx, "_fetch", refuse)
    for name in idx.NAMES:
        with fail("refused"):
            load(name)
    assert asked == [
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
    ]


def test_the_public_names_exist_and_are_sorted() -> None:
    for module in (data, idx):
        assert all(hasattr(module, name) for name in module.__all__)
        assert module.__all__ == sorted(
            module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
        )


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((1.0, 1.0, 300.0), "feature 2 .* deviation of 300, the median feature one of 1"),
        ((0.1, 0.1, 20.0), "feature 2"),
        ((900.0, 900.0, 900.0), None),
        ((0.1, 0.1, 5.0), None),
        ((1.0, 50.0, 1.0), None),
        ((1e-6, 1e-6, 0.5), None),
    ],
)
def test_features_in_different_units_are_warned_of(scales, expected, tmp_path):
    x = np.tile([-1.0, 1.0], 30)[:, None] * np.array(scales)
    np.savez(tmp_path / "d.npz", x=x * np.sqrt(59 / 60), y=np.repeat([0, 1], 30))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(str(tmp_path / "d.npz"))
    found = [str(w.message) for w in caught if w.category is CheaplipWarning]
    assert len(found) == (expected is not None)
    if expected:
        assert re.search(expected, found[0])
