"""Columns in units of their own: standardised unless told otherwise; an exported file takes them as they are."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.data.scaling import Standardisation
from cheaplip.errors import DataError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import load_trained
from cheaplip.training.config import from_json

TINY = ["--epochs", "3", "--model", "mlp:8", "--probe", "0", "--search", "8"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Columns in thousands and in hundredths, a constant one, and a class that depends on the small one."""
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    random = np.random.default_rng(0)
    small = random.normal(0.05, 0.01, 200)
    rows = zip(random.normal(2e3, 5e2, 200), small, np.full(200, 7.0), small > 0.05, strict=True)
    lines = [f"{large},{little},{same},{'high' if kind else 'low'}" for large, little, same, kind in rows]
    path.write_text("mass,width,same,kind\n" + "\n".join(lines))
    return str(path)


def raw(path):
    lines = Path(path).read_text().splitlines()[1:]
    return torch.tensor([[float(cell) for cell in line.split(",")[:3]] for line in lines])


def test_a_csv_file_is_standardised_by_its_training_part(table):
    data = load(table, label="kind")
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    everything = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert data.domain.contains(everything)
    torch.testing.assert_close(
        data.standardisation.inverse(everything).sort(0).values, raw(table).sort(0).values, rtol=1e-5, atol=1e-6
    )
    assert data.class_names == ("high", "low")
    assert data.feature_names == ("mass", "width", "same")


@pytest.mark.filterwarnings("ignore:.*feature 0.*:cheaplip.CheaplipWarning")
def test_none_leaves_features_as_they_come(table):
    data = load(table, label="kind", scaling="none")
    assert data.standardisation is None
    assert data.train.x[:, 0].mean() > 1000


def test_a_csv_file_within_the_unit_box_stays(tmp_path):
    (tmp_path / "unit.csv").write_text("a,kind\n" + "\n".join(f"{i / 40},{i % 2}" for i in range(40)))
    data = load(str(tmp_path / "unit.csv"), label="kind")
    assert data.standardisation is None
    assert repr(data.domain) == "Box(0, 1)"
    assert load(str(tmp_path / "unit.csv"), label="kind", scaling="standard").standardisation is not None


def test_arrays_are_standardised_on_request(tmp_path):
    x = np.random.default_rng(0).normal(5, 2, (60, 2, 3))
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(60) % 2)
    assert load(str(tmp_path / "d.npz")).standardisation is None
    data = load(str(tmp_path / "d.npz"), scaling="standard")
    assert data.standardisation.mean.shape == (2, 3)
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_a_constant_feature_keeps_its_unit_whatever_the_rounding():
    x = torch.full((41, 1), 0.1)
    assert Standardisation(x).deviation.item() == 1.0


@pytest.mark.parametrize(
    ("source", "scaling", "message"),
    [
        ("mnist", "standard", "scaling: mnist comes with a scale and a box of its own, got standard: leave it out"),
        ("digits", "robust", "scaling: expected one of standard, none, got 'robust'"),
    ],
)
def test_what_cannot_be_scaled_is_refused(source, scaling, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load(source, scaling=scaling)


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run(["train", table, "--label", "kind", "--out", str(folder), *TINY, "--epochs", "20", "--no-measure"]) == 0
    return folder


def test_a_network_learns_from_columns_in_any_units(trained):
    assert json.loads((trained / "metrics.json").read_text())["accuracy"]["test"] > 0.9


def test_an_exported_file_takes_the_columns_as_they_are(trained, table):
    assert run(["export", str(trained)]) == 0
    card = json.loads((trained / "model-card.json").read_text())
    assert card["scaling"]["mean"][0] == pytest.approx(2e3, rel=0.1)
    config = from_json(json.loads((trained / "config.json").read_text()))
    data = load(table, label="kind")
    model = load_trained(RunFolder(trained), config, data)
    program = torch.export.load(trained / "model.pt2").module()
    x = raw(table)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(data.standardisation(x)), rtol=1e-4, atol=1e-5)


def test_the_report_and_the_card_speak_of_names_and_units(trained):
    pytest.importorskip("plotly", reason="needs the extra report")
    assert run(["certify", str(trained), "--epsilon", "0.1", "--seconds", "0"]) == 0
    assert "divided by its standard deviation" in (trained / "card.md").read_text()
    assert run(["verify", str(trained), "--seconds", "0"]) == 0
    page = (trained / "report.html").read_text()
    assert re.search(r'<th scope="col">high</th>\s*<th scope="col">low</th>', page)
    assert '"ticktext": ["mass", "width", "same"]' in page
    assert "standard deviations" in page


@pytest.mark.filterwarnings("ignore:.*feature 0.*:cheaplip.CheaplipWarning")
def test_a_built_in_model_with_weights_is_bracketed_on_scaled_data(trained, table, capsys):
    model = ["mlp:8", "--weights", str(trained / "model.safetensors"), "--data", table, "--label", "kind"]
    uppers = {}
    for scaling in ("standard", "none"):
        assert run(["bracket", *model, "--scaling", scaling, "--seconds", "0", "--json"]) == 0
        uppers[scaling] = json.loads(capsys.readouterr().out)["upper"]
    assert run(["bracket", str(trained), "--seconds", "0", "--json"]) == 0
    assert uppers["standard"] == pytest.approx(json.loads(capsys.readouterr().out)["upper"])
    assert run(["bracket", *model, "--activation", "relu", "--seconds", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["upper"] > uppers["standard"]  # sigmoids have slopes of a quarter
