"""A run's folder: what it keeps and refuses, files written completely or not at all, one process at a time."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from broken_disk import disk_full, no_locks, read_only
from cheaplip import CheaplipWarning
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder


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

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(RunError, match="No space left on device"):
        folder.write_json("metrics.json", {"a": 2})
    assert folder.read_json("metrics.json") == {"a": 1}


def test_a_failed_write_takes_no_room(folder, monkeypatch):
    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(RunError, match="No space left on device"):
        folder.save_model(nn.Linear(2, 2))
    assert list(folder.path.iterdir()) == []


def test_a_history_that_cannot_be_written_is_named(folder, monkeypatch):
    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(RunError, match=r"cannot write .*history\.jsonl: No space left on device"):
        folder.append_history({"epoch": 1})


def test_a_history_is_replaced_as_a_whole(folder):
    for epoch in range(4):
        folder.append_history({"epoch": epoch})
    folder.write_history([{"epoch": 0}, {"epoch": math.nan}])
    assert folder.history() == [{"epoch": 0}, {"epoch": None}]
    folder.append_history({"epoch": 2})
    assert len(folder.history()) == 3


def test_what_a_crash_leaves_before_the_first_file_is_no_run(tmp_path):
    (tmp_path / "run" / "plain-seed0").mkdir(parents=True)
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "plain-seed0" / ".config.json.part").write_text("{")
    RunFolder(tmp_path / "run").create()


def test_a_second_holder_is_refused_and_a_later_one_welcome(folder):
    with (
        folder.locked(),
        pytest.raises(RunError, match=re.escape(f"another process is at work in {folder.path}: wait")),
        folder.locked(),
    ):
        pass
    with folder.locked():
        pass


def test_a_file_system_without_locks_warns(folder, monkeypatch):
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(CheaplipWarning, match="has no locks: make sure that no second process"), folder.locked():
        pass


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("os.open", read_only)
    with (
        pytest.raises(RunError, match=r"cannot write to output folder .*: Read-only file system"),
        RunFolder(tmp_path / "run").locked(),
    ):
        pass


def test_weights_in_another_memory_format_are_stored_contiguous(tmp_path):
    made, read = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3)
    RunFolder(tmp_path).save_model(made.to(memory_format=torch.channels_last))
    stored = load_file(tmp_path / "model.safetensors")
    assert not made.weight.is_contiguous()
    assert stored["weight"].is_contiguous()
    RunFolder(tmp_path).load_model(read)
    assert torch.equal(read.weight, made.weight)
