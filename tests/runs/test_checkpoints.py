"""Two checkpoints, one of which is sound after a crash at any moment, and what is said of the damaged ones."""

import json
import re
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from broken_disk import disk_full
from cheaplip import CheaplipWarning
from cheaplip.errors import RunError
from cheaplip.runs import checkpoints

NEWEST, PREVIOUS, RECORDS = "checkpoint.safetensors", "checkpoint.previous.safetensors", "checkpoint.json"


def state(step: int) -> dict:
    return {"epoch": step // 10, "step": step, "weights": torch.full((100,), float(step))}


@pytest.fixture
def saved(tmp_path):
    """A folder with checkpoints of the steps 10 and 20."""
    for step in (10, 20):
        checkpoints.save(tmp_path, state(step))
    return tmp_path


def step_of(folder) -> int | None:
    content = checkpoints.newest(folder)
    return None if content is None else checkpoints.unpack(content)["step"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_round_trip_of_nested_state():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {"optimizer": optimizer.state_dict(), "none": None, "list": [1.5, "a", torch.ones(2)], 3: {"x": True}}
    loaded = checkpoints.unpack(checkpoints.pack(content))
    assert loaded["none"] is None
    assert loaded["list"][:2] == [1.5, "a"]
    assert loaded["list"][2].tolist() == [1, 1]
    assert loaded[3] == {"x": True}
    fresh = torch.optim.Adam(model.parameters())
    fresh.load_state_dict(loaded["optimizer"])
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(fresh.state_dict()["state"][0][key], value)


def test_what_cannot_be_stored_is_named():
    with pytest.raises(TypeError, match="cannot store /a/0: expected tensors and plain values, got set"):
        checkpoints.pack({"a": [{1, 2}]})


def test_the_last_two_are_kept_and_their_checksums_recorded(saved):
    checkpoints.save(saved, state(30))
    assert {path.name for path in saved.iterdir()} == {NEWEST, PREVIOUS, RECORDS}
    record = json.loads((saved / RECORDS).read_text())
    assert (record["epoch"], record["step"], record["before"][0]["step"]) == (3, 30, 20)
    assert step_of(saved) == 30
    (saved / NEWEST).unlink()
    assert step_of(saved) == 20


def test_no_checkpoint_yet(tmp_path):
    assert step_of(tmp_path) is None


@pytest.mark.parametrize("damage", [truncate, flip_a_bit], ids=["truncated", "a bit changed"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(saved, damage):
    damage(saved / NEWEST)
    expected = f"{saved / NEWEST} is damaged (its checksum is not the one in checkpoint.json): continuing from the "
    with pytest.warns(CheaplipWarning, match=re.escape(expected + "checkpoint before it, epoch 1, step 10")):
        assert step_of(saved) == 10


def test_a_save_after_damage_goes_on_from_there(saved):
    truncate(saved / NEWEST)
    with pytest.warns(CheaplipWarning, match="is damaged"):
        assert step_of(saved) == 10
    checkpoints.save(saved, state(11))
    assert step_of(saved) == 11


def test_both_damaged_is_an_error(saved):
    truncate(saved / NEWEST)
    flip_a_bit(saved / PREVIOUS)
    with pytest.raises(RunError, match=re.escape(f"no sound checkpoint in {saved}: {NEWEST} and {PREVIOUS} cut off")):
        step_of(saved)


@pytest.mark.parametrize("records", [None, "", "{", "[]", '{"epoch": 1, "step": 2}'], ids=repr)
def test_without_checksums_the_newest_that_can_be_read_is_used(saved, records):
    if records is None:
        (saved / RECORDS).unlink()
    else:
        (saved / RECORDS).write_text(records)
    with pytest.warns(
        CheaplipWarning, match=f"missing or damaged: continuing from {NEWEST}, whose checksum is unknown"
    ):
        assert step_of(saved) == 20
    truncate(saved / NEWEST)
    with pytest.warns(CheaplipWarning, match=f"continuing from {PREVIOUS}"):
        assert step_of(saved) == 10


@pytest.mark.parametrize("operation", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_keeps_what_was_there(saved, operation, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(operation, disk_full)
        with pytest.raises(RunError, match="No space left on device"):
            checkpoints.save(saved, state(30))
    assert step_of(saved) == 20


CRASHING = """
import os, signal, sys
from pathlib import Path
import torch
from cheaplip.runs import checkpoints

folder, moment, torn = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "torn"
count = 0

def crashing(call):
    def instead(*args, **named):
        global count
        count += 1
        if count == moment:
            if torn and call is fsync and os.path.isfile(f"/proc/self/fd/{args[0]}"):
                os.truncate(f"/proc/self/fd/{args[0]}", os.fstat(args[0]).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **named)
    return instead

fsync = os.fsync
os.fsync, Path.replace = crashing(os.fsync), crashing(Path.replace)
for step in (10, 20, 30):
    checkpoints.save(folder, {"epoch": 0, "step": step, "weights": torch.full((100,), float(step))})
    print(step, flush=True)
"""


def crash_and_look(folder, moment, torn):
    """Crash before the given fsync or rename (with half of what was to be synced), and look what is there."""
    script = [sys.executable, "-c", CRASHING, str(folder), str(moment), torn]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = max((int(line) for line in done.stdout.split()), default=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a crash is no damage
        found = step_of(folder)
    assert found in ({None, 10} if finished is None else {finished, finished + 10})
    checkpoints.save(folder, state(40))
    assert step_of(folder) == 40


linux = pytest.mark.skipif(sys.platform != "linux", reason="truncates through /proc")


@linux
@pytest.mark.parametrize(("moment", "torn"), [(3, "torn"), (8, "torn"), (12, "whole"), (13, "whole")])
def test_a_crash_within_a_save_leaves_the_last_finished_one_or_a_newer(moment, torn, tmp_path):
    crash_and_look(tmp_path, moment, torn)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("torn", ["torn", "whole"])
@pytest.mark.parametrize("moment", range(1, 20))
def test_a_crash_at_every_moment_of_a_save(moment, torn, tmp_path):
    crash_and_look(tmp_path, moment, torn)
