"""Data from a function: arrays, a whole data set, and what is said of functions that fail."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cheaplip.data import load
from data_files import refuses


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
    with refuses(message):
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
    with refuses(message) as caught:
        load(source)
    assert source in str(caught.value)
    assert sys.path == path
