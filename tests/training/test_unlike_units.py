"""Several numbers to predict in unlike units: each counts in training, metrics, page, card, export and certificate."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.export import export
from cheaplip.trained.loading import load_run
from cheaplip.trained.verify import verify_card

UNITS = np.array([1e-3, 1.0, 1e6])
OPTIONS = ["--task", "regression", "--model", "mlp:16", "--epochs", "25", "--probe", "0", "--search", "16"]


def samples():
    generator = np.random.default_rng(0)
    x = generator.random((300, 3))
    shapes = np.stack([x[:, 0] + x[:, 1], np.sin(3 * x[:, 1]), x[:, 2] - x[:, 0] ** 2], axis=1)
    return x, (shapes + 0.02 * generator.standard_normal(shapes.shape)) * UNITS + [0.0, 5.0, 1e9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    x, y = samples()
    np.savez(folder / "three.npz", x=x, y=y)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "three.npz", *OPTIONS, "--target", "0.25", "--out", "run", "--no-measure"]) == 0
    return folder


@pytest.fixture
def trained(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return load_run(RunFolder(folder / "run"))


def metrics_of(folder):
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_each_label_is_scaled_by_its_own_deviation_from_float64(folder):
    data, (x, y) = load(str(folder / "three.npz"), task="regression"), samples()
    torch.testing.assert_close(data.train.y.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.y.std(dim=0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    rows = [int(np.abs(x - np.float64(row)).sum(axis=1).argmin()) for row in data.test.x.double().numpy()]
    np.testing.assert_allclose(data.label_scaling.inverse(data.test.y.double()).numpy(), y[rows], rtol=1e-6)


def test_every_output_is_learnt(folder, trained):
    errors = metrics_of(folder)["rmse_of_outputs"]["test"]
    deviations = trained.data.label_scaling.deviation.numpy()
    assert (errors / deviations < 0.5).all(), errors / deviations
    assert np.sqrt(np.mean(np.square(errors / deviations))) == pytest.approx(metrics_of(folder)["rmse"]["test"])
    assert metrics_of(folder)["rmse"]["train"] == pytest.approx(0.25, rel=0.3)


def test_the_table_and_the_page_say_what_errors_are_in(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert run(["evaluate", "run", "--attacks", "noise", "--epsilon", "0.1"]) == 0
    assert "RMSE of output 3 in its units, test" in capsys.readouterr().out
    assert run(["report", "run"]) == 0
    page = (folder / "run" / "report.html").read_text()
    assert "standard deviations of each label" in page
    assert "each in its own units" in page


def test_the_answers_of_a_page_are_in_the_labels_units(folder, trained):
    answers = json.loads((folder / "run" / "report.json").read_text())["answers"]
    exact = trained.data.label_scaling.inverse(trained.data.test.y.double())
    np.testing.assert_allclose(answers["label"], exact.T.numpy(), rtol=1e-6)


def test_a_certificate_holds_for_each_output_and_says_its_unit(folder, trained, tmp_path):
    assert run(["certify", "run", "--epsilon", "0.1", "--seconds", "1"]) == 0
    card = (folder / "run" / "card.md").read_text()
    assert "to 3 predictions, each in standard deviations of its label" in card
    deviations = trained.data.label_scaling.deviation
    assert ", ".join(f"{value:.6g}" for value in deviations.tolist()) in card
    assert "in the units of that label" in card
    with (folder / "run" / "certified.csv").open() as file:
        rows = list(csv.DictReader(file))
    widths = [float(row["high@0.1"]) - float(row["low@0.1"]) for row in rows]
    assert max(widths) < 1.001 * min(widths)  # of an output near 1e-3 as of one near 1e9
    x = trained.data.test.x
    moved = x + 0.1 * torch.nn.functional.normalize(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    predicted = trained.model(moved).flatten().tolist()
    assert all(float(r["low@0.1"]) <= p <= float(r["high@0.1"]) for r, p in zip(rows, predicted, strict=True))
    checked = verify_card(RunFolder(folder / "run"))
    assert not any("rmse_of_outputs" in note for note in checked.unchecked)
    for errors, message in (
        ({"test": [1e-5, 0.1, 1e5]}, "metrics.json says test RMSE of output 1"),
        ({"test": [0.1]}, "expected 3 errors for each of train, validation, test"),
        ({"more": [0.1, 0.1, 0.1]}, "expected 3 errors for each of train, validation, test"),
        ({"test": None}, "damaged"),
    ):
        shutil.copytree(folder / "run", tmp_path / "edited", dirs_exist_ok=True)
        metrics = metrics_of(folder)
        metrics["rmse_of_outputs"] |= errors
        (tmp_path / "edited" / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(RunError, match=message):
            verify_card(RunFolder(tmp_path / "edited"), seconds=0.2)


def test_an_exported_model_predicts_in_the_labels_units(folder, trained):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from cheaplip.trained.export import run_onnx

    x, _ = samples()
    predicted = run_onnx(export(RunFolder(folder / "run"), "onnx"))(torch.from_numpy(x).float()).double().numpy()
    _, y = samples()
    assert (np.sqrt(np.mean(np.square(predicted - y), axis=0)) < 0.5 * y.std(axis=0)).all()
    card = json.loads((folder / "run" / "model-card.json").read_text())
    assert card["labels"]["deviation"] == pytest.approx(trained.data.label_scaling.deviation.tolist())


def test_a_run_before_labels_were_scaled_is_read_as_it_was(folder, trained):
    content = json.loads((folder / "run" / "data.json").read_text())
    assert content.pop("labels")["deviation"] == pytest.approx(trained.data.label_scaling.deviation.tolist())
    from cheaplip.data.recipe import Recipe

    old = load(str(folder / "three.npz"), task="regression", recipe=Recipe.from_json(content))
    assert old.label_scaling is None
    assert float(old.test.y.max()) > 1e8


def test_a_model_from_elsewhere_predicts_in_the_labels_units(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "plain.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3, outputs))\n"
    )
    x, y = samples()
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    weights = {"1.weight": torch.tensor(solution[:3].T).float(), "1.bias": torch.tensor(solution[3]).float()}
    torch.save(weights, folder / "plain.pt")
    arguments = [
        "plain:net",
        "--weights",
        "plain.pt",
        "--data",
        "three.npz",
        "--task",
        "regression",
        "--seconds",
        "0.1",
    ]
    assert run(["certify", *arguments, "--epsilon", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rmse"]["test"] < np.sqrt(np.mean(np.square(y.std(axis=0))))
    assert found["rmse"]["test"] > 1e4  # in its own units, those of the largest output count


def test_a_reference_whose_labels_were_not_scaled_is_refused(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    shutil.copytree(folder / "run", tmp_path / "old")
    content = json.loads((tmp_path / "old" / "data.json").read_text())
    del content["labels"]
    (tmp_path / "old" / "data.json").write_text(json.dumps(content))
    options = [*OPTIONS, "--reference", str(tmp_path / "old"), "--out", str(tmp_path / "new")]
    assert run(["train", "three.npz", *options]) == 2
    assert "reference: expected a run whose 3 labels are scaled as here" in " ".join(capsys.readouterr().err.split())


def test_the_range_of_each_label_is_told(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    options = [*OPTIONS, "--epochs", "1", "--method", "plain", "--no-measure", "--out", str(tmp_path / "r")]
    assert run(["train", "three.npz", *options]) == 0
    said = " ".join(capsys.readouterr().err.split())
    _, y = samples()
    ranges = " / ".join(f"{low:g} to {high:g}" for low, high in zip(*np.float32([y.min(0), y.max(0)]), strict=True))
    assert f"3 numbers to predict, {ranges}, each in its standard deviations" in said


@pytest.mark.filterwarnings("error")
def test_a_constant_label_beside_others_is_no_trouble(tmp_path):
    x, y = samples()
    np.savez(tmp_path / "flat.npz", x=x, y=np.c_[y, np.full(len(y), 7.0)])
    data = load(str(tmp_path / "flat.npz"), task="regression")
    assert data.label_scaling.deviation[3] == 1.0
    assert bool((data.train.y[:, 3] == 0).all())


def test_a_single_label_is_in_its_units(tmp_path):
    x, y = samples()
    for shape in ((-1,), (-1, 1)):
        np.savez(tmp_path / "one.npz", x=x, y=y[:, 2].reshape(shape))
        assert load(str(tmp_path / "one.npz"), task="regression").label_scaling is None
