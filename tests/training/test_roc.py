"""The figures of a classifier with two classes: known answers, and where they are shown."""

import dataclasses

import pytest
import torch
from sklearn.metrics import roc_auc_score

from cheaplip.cli.console import metrics_table
from cheaplip.data import load
from cheaplip.report.read import read_study
from cheaplip.report.table import columns
from cheaplip.runs.folder import RunFolder
from cheaplip.training import train
from cheaplip.training.tasks.roc import roc_figures
from data_files import save_npz
from training_runs import QUICK


def logits(lead):
    lead = torch.as_tensor(lead, dtype=torch.float32)
    return torch.stack([3 - lead / 2, 3 + lead / 2], dim=1)


@pytest.mark.parametrize(
    ("lead", "y", "auc", "sensitivity"),
    [
        pytest.param([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75, 0.5, id="one of four pairs is wrong"),
        pytest.param([-2, -1, 1, 2], [0, 0, 1, 1], 1.0, 1.0, id="perfect"),
        pytest.param([2, 1, -1, -2], [0, 0, 1, 1], 0.0, 0.0, id="upside down"),
        pytest.param([1, 1, 1, 1], [0, 0, 1, 1], 0.5, 0.0, id="constant"),
        pytest.param([0, 0, 0, 1], [0, 1, 1, 1], 2 / 3, 1 / 3, id="ties count as half"),
        pytest.param([*range(100), 94.5], [0] * 100 + [1], 0.95, 1.0, id="5 of 100 above it"),
        pytest.param([*range(100), 93.5], [0] * 100 + [1], 0.94, 0.0, id="6 of 100 above it"),
    ],
)
def test_known_answers(lead, y, auc, sensitivity):
    found = roc_figures(logits(lead), torch.tensor(y))
    assert found == pytest.approx({"auc": auc, "sensitivity_at_95_specificity": sensitivity})


@pytest.mark.parametrize(("lead", "y"), [([0, 1], [1, 1]), ([0, float("nan")], [0, 1])], ids=["one class", "NaN"])
def test_without_two_classes_or_with_a_logit_that_is_not_finite_there_are_none(lead, y):
    assert roc_figures(logits(lead), torch.tensor(y)) == {}


def test_the_figures_are_in_the_metrics_the_table_and_the_page(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(300, 4, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(300, generator=generator) > 0.5).long()
    data = load(save_npz(tmp_path, x=x.numpy(), y=y.numpy()))
    folder = RunFolder(tmp_path / "run")
    metrics = train(dataclasses.replace(QUICK, method="plain", model="linear", search=4), data, folder)
    assert set(metrics["auc"]) == {"train", "validation", "test"}
    assert metrics == folder.read_json("metrics.json")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    weights = {f"1.{name.rsplit('.', 1)[-1]}": value for name, value in _tensors(folder).items()}
    network.load_state_dict(weights)
    with torch.no_grad():
        output = network(data.test.x)
    assert metrics["auc"]["test"] == pytest.approx(roc_auc_score(data.test.y, output[:, 1] - output[:, 0]))
    shown = metrics_table("run", metrics).columns[0]._cells
    assert {"area under the ROC curve, test", "sensitivity at 95 % specificity, test"} <= set(shown)
    headings = [(column.title, column.unit) for column in columns(read_study(tmp_path / "run"))]
    assert ("test", "AUC") in headings
    assert ("sensitivity", "at 95 % specificity") in headings


def _tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder.path / "model.safetensors")


def test_more_classes_have_none(tmp_path):
    metrics = train(
        dataclasses.replace(QUICK, method="plain", model="linear", epochs=1, search=4),
        load("digits"),
        RunFolder(tmp_path / "run"),
    )
    assert "auc" not in metrics
