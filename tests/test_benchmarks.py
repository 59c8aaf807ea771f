"""The benchmarks that name files of the repository name files that are there; published bounds beside ours."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest
import torch

from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.products import norm_product

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the repository's benchmarks/")


@pytest.fixture
def installs(monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("installs")


def test_the_tests_of_every_extra_are_found(installs):
    for extra in installs.TESTS:
        files = installs.files_of(extra, ROOT)
        assert len(files) == len(installs.TESTS[extra].split())
        assert [file for file in files if not (ROOT / file).is_file()] == []


def test_a_test_that_is_missing_is_named(installs, tmp_path):
    (tmp_path / "tests" / "core").mkdir(parents=True)
    (tmp_path / "tests" / "core" / "test_exact.py").touch()
    message = f"bounds: expected test_bracket.py in a folder of {tmp_path / 'tests'}: update TESTS"
    with pytest.raises(SystemExit, match=re.escape(message)):
        installs.files_of("bounds", tmp_path)


@pytest.fixture
def published(monkeypatch):
    for package in ("tyro", "sklearn"):
        pytest.importorskip(package, reason="needs the extra cli")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("published")


MEASURED = {"lower": 2.0, "upper": 3.0, "product": 6.0, "seconds_upper": 1.0, "seconds_lower": 4.0, "method": "exact"}


def test_several_networks_have_the_mean_of_each_figure(published):
    other = MEASURED | {"upper": 5.0, "method": "norms"}
    assert published.mean([MEASURED, other, other]) == pytest.approx(
        MEASURED | {"upper": 13 / 3, "method": "exact, norms"}
    )


def test_a_row_shows_the_published_figures_beside_ours(published):
    row = {"name": "2-10-30-20-2", "weights": "theirs", **MEASURED}
    line = "| 2-10-30-20-2 | theirs | 6 | 3 | exact | 2 | 1.5 | 1.0 | LipSDP 36.482 |"
    assert published.line(row) == line
    assert line.count("|") == published.HEADER.splitlines()[0].count("|")


def test_a_row_replaces_its_predecessor_and_the_table_keeps_its_order(published, tmp_path):
    out = tmp_path / "results" / "published.json"
    for name, upper in [("2c2f", 3.0), ("2-10-30-20-2", 4.0), ("2c2f", 5.0)]:
        published.keep(MEASURED | {"name": name, "upper": upper}, out)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["name"], row["upper"]) for row in rows] == [("2-10-30-20-2", 4.0), ("2c2f", 5.0)]


def test_lipsdp_s_example_has_the_norm_of_its_product(published):
    """Without negative weights some inputs activate all neurons, and LipSDP is exact."""
    subject = published.lipsdp_example(None)
    matrices = [layer.weight.detach() for layer in subject.models[0][::2]]
    exact = float(torch.linalg.matrix_norm(torch.linalg.multi_dot(matrices[::-1]), 2))
    assert subject.weights == "other: uniform, seed 0"
    assert upper_bound(read(subject.models[0], subject.shape), 2, seconds=1.0).value == pytest.approx(exact, rel=1e-4)


def test_weights_are_put_in_the_order_of_the_layers(published):
    model = torch.nn.Linear(2, 1)
    published.put(model, [torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])])
    assert model(torch.tensor([[10.0, 100.0]])).item() == 213
    with pytest.raises(ValueError, match=re.escape("expected the shapes [(1, 2), (1,)], got [(1,)]")):
        published.put(model, [torch.tensor([3.0])])


@pytest.mark.parametrize(
    ("name", "linear"),
    [("LeNet-5, average pooling", 5), ("dense residual, 8 blocks", 18), ("MaxMin, 18 layers of 32", 18), ("2c2f", 4)],
)
def test_a_network_has_the_published_layers_and_can_be_read(published, name, linear):
    model = published.MAKERS[name]().eval()
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(layers) == linear
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert norm_product(read(model, (1, 28, 28))) < math.inf


def test_the_page_shows_the_rows_that_are_kept(published):
    page = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "results" / "published.json").read_text())["rows"]
    assert [row["name"] for row in rows] == [*published.PUBLISHED]
    assert published.HEADER in page
    assert [row["name"] for row in rows if published.line(row) not in page] == []
