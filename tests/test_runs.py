import json
import math
import re

import pytest
import torch
from torch import nn

from cheaplip.experiments.runs import RunError, RunFolder


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create()
    return run


def test_an_empty_folder_is_fine_and_a_full_one_refused(tmp_path):
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").create()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=re.escape("exists and is not empty: choose another --out")):
        RunFolder(tmp_path / "run").create()


def test_overwrite_removes_a_runs_files_and_nothing_else(folder):
    folder.write_json("metrics.json", {})
    (folder.path / "thesis.tex").write_text("years of work")
    folder.create(overwrite=True)
    assert [path.name for path in folder.path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=re.escape(f"cannot write to output folder {tmp_path / 'run'}")):
        RunFolder(tmp_path / "run").create()


def test_json_has_no_nan(folder):
    folder.write_json("metrics.json", {"a": math.nan, "b": [1.5, math.inf]})
    assert json.loads((folder.path / "metrics.json").read_text()) == {"a": None, "b": [1.5, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no metrics.json in", id="missing"),
        pytest.param('{"a": ', "cannot read", id="cut-off"),
        pytest.param("[]", "expected a JSON object, got list", id="list"),
    ],
)
def test_broken_json_is_named(folder, content, message):
    if content is not None:
        (folder.path / "metrics.json").write_text(content)
    with pytest.raises(RunError, match=re.escape(message)):
        folder.read_json("metrics.json")


def test_checkpoint_round_trip_of_nested_state(folder):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {
        "epoch": 3,
        "step": 7,
        "optimizer": optimizer.state_dict(),
        "none": None,
        "list": [1.5, "a", torch.ones(2)],
    }
    folder.save_checkpoint(state)
    loaded = folder.load_checkpoint()
    assert loaded["epoch"] == 3
    assert loaded["none"] is None
    assert loaded["list"][:2] == [1.5, "a"]
    assert loaded["list"][2].tolist() == [1, 1]
    fresh = torch.optim.Adam(model.parameters())
    fresh.load_state_dict(loaded["optimizer"])
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(fresh.state_dict()["state"][0][key], value)
    assert json.loads((folder.path / "checkpoint.json").read_text()) == {"epoch": 3, "step": 7}


def test_a_truncated_checkpoint_is_named(folder):
    folder.save_checkpoint({"epoch": 1, "step": 1, "x": torch.ones(100)})
    path = folder.path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RunError, match=re.escape(f"cannot read {path}")):
        folder.load_checkpoint()


def test_weights_of_another_model_are_refused(folder):
    folder.save_model(nn.Linear(2, 2))
    with pytest.raises(RunError, match="does not fit the model"):
        folder.load_model(nn.Linear(3, 2))


def test_tied_weights_survive(folder):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    folder.save_model(model)
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    other[1].weight = other[0].weight
    folder.load_model(other)
    assert torch.equal(other[1].weight, model[1].weight)


def test_an_interrupted_write_leaves_the_old_file(folder, monkeypatch):
    folder.write_json("metrics.json", {"a": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="No space left on device"):
        folder.write_json("metrics.json", {"a": 2})
    assert folder.read_json("metrics.json") == {"a": 1}


def test_history_keeps_what_a_checkpoint_knows(folder):
    for epoch in range(4):
        folder.append_history({"epoch": epoch})
    folder.cut_history(2)
    assert folder.history() == [{"epoch": 0}, {"epoch": 1}]
