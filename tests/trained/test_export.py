"""Exported models say what the model says, for any batch, without cheaplip."""

import json
import re

import numpy as np
import pytest
import torch

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.export import export
from cheaplip.trained.loading import load_trained
from cheaplip.training.config import from_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    options = ["--epochs", "1", "--model", "mlp:8", "--probe", "0", "--search", "8", "--target", "0.6"]
    assert run(["train", "digits", "--out", str(path), "--no-measure", *options]) == 0
    return RunFolder(path)


@pytest.fixture(scope="module")
def expected(trained):
    data = load("digits")
    model = load_trained(trained, from_json(trained.read_json("config.json")), data)
    with torch.no_grad():
        return data.test.x[:7], model(data.test.x[:7])


def test_pt2_equals_the_model(trained, expected, capsys):
    assert run(["export", str(trained.path)]) == 0
    assert "model.pt2" in capsys.readouterr().err
    x, logits = expected
    loaded = torch.export.load(trained.path / "model.pt2").module()
    torch.testing.assert_close(loaded(x), logits)
    torch.testing.assert_close(loaded(x[:1]), logits[:1])


def test_onnx_equals_the_model(trained, expected):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    assert run(["export", str(trained.path), "--format", "onnx"]) == 0
    x, logits = expected
    session = onnxruntime_session(trained.path / "model.onnx")
    for rows in (1, 7):
        (answer,) = session.run(["logits"], {"input": x[:rows].numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), logits[:rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_regression_answers_in_the_labels_units(kind, tmp_path, monkeypatch):
    if kind == "onnx":
        for package in ("onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason="needs the extra onnx")
    monkeypatch.chdir(tmp_path)
    x = 1000 * np.random.default_rng(0).random((200, 3))
    rows = [f"{a},{b},{c},{a + 2 * b}" for a, b, c in x]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c,price", *rows]))
    options = ["--label", "price", "--task", "regression", "--target", "300", "--epochs", "1", "--model", "mlp:8"]
    assert run(["train", "table.csv", *options, "--probe", "0", "--search", "8", "--out", "run", "--no-measure"]) == 0
    path = export(RunFolder(tmp_path / "run"), kind)
    data = load("table.csv", label="price", task="regression", scaling="standard")
    trained = RunFolder(tmp_path / "run")
    model = load_trained(trained, from_json(trained.read_json("config.json")), data)
    raw = data.standardisation.inverse(data.test.x)
    if kind == "pt2":
        answer = torch.export.load(path).module()(raw)
    else:
        session = onnxruntime_session(path)
        answer = torch.from_numpy(session.run(["predictions"], {"input": raw.numpy()})[0])
    torch.testing.assert_close(answer, model(data.test.x).detach(), rtol=1e-4, atol=0.1)
    assert answer.mean() > 500
    card = trained.read_json("model-card.json")
    assert card["output"] == {"shape": ["batch", 1], "meaning": "predictions, in the labels' units"}


def onnxruntime_session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_model_card_says_what_it_is(trained):
    export(trained)
    card = json.loads((trained.path / "model-card.json").read_text())
    assert card["input"] == {"shape": ["batch", 1, 8, 8], "dtype": "float32", "domain": "Box(0, 1)"}
    assert card["metrics"] == trained.read_json("metrics.json")


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"^no metrics\.json in .*: expected the folder of a run made by"):
        export(RunFolder(tmp_path))


def test_an_unknown_format_is_refused(trained, capsys):
    assert run(["export", str(trained.path), "--format", "tflite"]) == 2
    assert "pt2" in capsys.readouterr().err


def test_onnx_without_the_extra_names_it(trained, monkeypatch):
    monkeypatch.setattr("cheaplip.trained.export.find_spec", lambda name: None if name == "onnxscript" else True)
    message = "export to onnx needs onnxscript: pip install 'cheaplip[onnx]'"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        export(trained, "onnx")
