"""The tabular benchmark's parts: what it measures is what it says."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "tabular.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the repository's benchmarks/")


@pytest.fixture(scope="module")
def tabular():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("name", ["breast-cancer", "wine", "diabetes"])
def test_parts_are_standardised_and_complete(tabular, name):
    training, validation, test = tabular["split"](name, 0)
    x, _ = tabular["SETS"][name](return_X_y=True)
    assert len(training.x) + len(validation.x) + len(test.x) == len(x)
    torch.testing.assert_close(training.x.mean(0), torch.zeros(x.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(training.x.std(0, correction=0), torch.ones(x.shape[1]), atol=1e-4, rtol=0)


def test_the_attack_moves_a_linear_classifier_by_its_radius(tabular):
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    x = torch.tensor([[0.9, 0.0], [1.1, 0.0]])  # class 0, at distances 0.9 and 1.1 from the border; the radius is 1
    assert tabular["attacked"](model, tabular["Part"](x, torch.tensor([0, 0]))) == 0.5


def test_the_strongest_good_enough_is_chosen(tabular):
    part = tabular["Part"](torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-1.0]]))
    models = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    for model, weight in zip(models, (1.0, 0.9, 0.1), strict=True):
        nn.init.constant_(model.weight, weight)
    candidates = list(zip("abc", models, strict=True))
    assert tabular["choose"](candidates, part, 0.9)[0] == "b"
    assert tabular["choose"](candidates, part, 2.0)[0] == "a"


def test_the_table_shows_mean_and_spread(tabular):
    row = {"data": "wine", "method": "clip", "test": 1.0, "noise": 0.5, "attack": 0.25, "lower": 2.0}
    table = tabular["markdown"]([row, {**row, "test": 0.8}])
    assert table.splitlines()[2].startswith("| wine | clip | 0.900 ± 0.141 | 0.500 ± 0.000 |")
