"""Runs that are killed, run out of disk, or meet another process: nothing is lost, and the result is the same."""

import dataclasses
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cheaplip import CheaplipWarning
from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import Interrupted
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.compare import Attack, compare
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train
from training_runs import QUICK, stop_after, timeless

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="kills processes"),
    pytest.mark.usefixtures("whole_searches"),
]

RUN = dataclasses.replace(QUICK, probe=4, search=TrainConfig.search)
EACH_STEP = dataclasses.replace(RUN, checkpoint_every="0.00001m")
ATTACKS = [Attack("noise", 0.5, 50), Attack("pgd", 0.5, 20)]
METHODS = {name: dataclasses.replace(RUN, method=name, epochs=2) for name in ("plain", "clip")}


def one_run(path: str) -> None:
    torch.set_num_threads(1)
    train(EACH_STEP, load("digits"), RunFolder(path), resume=True)


def one_comparison(path: str) -> None:
    torch.set_num_threads(1)
    compare(METHODS, [0], load("digits"), Path(path), attacks=ATTACKS)


def killed_again_and_again(work, path, moments):
    """Do the work in a process, which is killed after each of the times; the last one finishes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cheaplip.trained.compare", "cheaplip.data.sources"])
    kills = 0
    for moment in [*moments, None]:
        process = context.Process(target=work, args=(str(path),))
        process.start()
        process.join(moment)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert process.exitcode == 0
    return kills


def check_kills(tmp_path, moments, least):
    assert killed_again_and_again(one_run, tmp_path / "killed", moments) >= least
    train(RUN, load("digits"), RunFolder(tmp_path / "whole"))
    killed, whole = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "whole")
    assert timeless(killed.read_json("metrics.json")) == timeless(whole.read_json("metrics.json"))
    assert timeless(killed.history()) == timeless(whole.history())
    for name in ("model.safetensors", "witness.safetensors"):
        assert (killed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_run_killed_at_random_moments_ends_the_same(tmp_path):
    chance = random.Random(0)
    check_kills(tmp_path, [chance.uniform(0.3, 1.5) for _ in range(4)], least=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_twenty_random_moments_ends_the_same(seed, tmp_path):
    chance = random.Random(seed)
    check_kills(tmp_path, [chance.uniform(0, 1.0) for _ in range(20)], least=15)


@pytest.mark.slow
def test_a_comparison_killed_at_random_moments_ends_the_same(tmp_path):
    chance = random.Random(1)
    moments = [chance.uniform(0.3, 1.5) for _ in range(3)]
    assert killed_again_and_again(one_comparison, tmp_path / "killed", moments) >= 1
    rows = compare(METHODS, [0], load("digits"), tmp_path / "whole", attacks=ATTACKS)
    assert timeless(json.loads((tmp_path / "killed" / "results.json").read_text())) == timeless(rows)


def interrupted(path, steps):
    """A run with a checkpoint at each of its first steps."""
    with pytest.raises(Interrupted):
        train(EACH_STEP, load("digits"), RunFolder(path), stop=stop_after(steps))
    return RunFolder(path)


def test_a_truncated_checkpoint_is_said_and_the_older_one_leads_to_the_same_end(tmp_path):
    folder = interrupted(tmp_path / "cut", 50)
    path = folder.path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(
        CheaplipWarning, match="is damaged .* continuing from the checkpoint before it, epoch 0, step 25"
    ):
        resumed = train(EACH_STEP, load("digits"), folder, resume=True)
    assert timeless(resumed) == timeless(train(RUN, load("digits"), RunFolder(tmp_path / "whole")))


def test_minutes_between_checkpoints(tmp_path):
    config = dataclasses.replace(RUN, checkpoint_every="30m")
    with pytest.raises(Interrupted):
        train(config, load("digits"), RunFolder(tmp_path / "run"), stop=stop_after(90))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "checkpoint.safetensors" in names
    assert "checkpoint.previous.safetensors" not in names  # three epochs, and not yet half an hour
    names = {path.name for path in interrupted(tmp_path / "each step", 5).path.iterdir()}
    assert "checkpoint.previous.safetensors" in names


def cheaplip(*arguments, folder, **options):
    command = [sys.executable, "-m", "cheaplip", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("room", "name"),
    [pytest.param(20_000, "data.json", marks=pytest.mark.slow), (35_000, "checkpoint.safetensors")],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(room, name, tmp_path):
    """``room`` is the size in bytes from which a file is too large; that of the plain network's checkpoint is not."""
    options = ["--model", "mlp:20", "--epochs", "2", "--probe", "0", "--pairs", "8"]
    arguments = ["train", "digits", *options, "--no-measure"]  # what it measures depends on the time it takes
    process = cheaplip(*arguments, "--out", "full", folder=tmp_path, preexec_fn=lambda: limit_files(room))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.splitlines()[-1] == f"cheaplip: cannot write full/{name}: File too large"
    assert "Traceback" not in err
    for out in ("full", "whole"):
        assert run([*arguments, "--out", str(tmp_path / out), "--json", "--resume"]) == 0
    full, whole = (json.loads((tmp_path / out / "metrics.json").read_text()) for out in ("full", "whole"))
    assert timeless(full) == timeless(whole)
    assert (tmp_path / "full" / "data.json").read_bytes() == (tmp_path / "whole" / "data.json").read_bytes()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "run").mkdir(mode=0o555)
    assert run(["train", "digits", "--model", "linear", "--epochs", "1", "--out", str(tmp_path / "run")]) == 2
    assert f"cannot write to output folder {tmp_path / 'run'}: Permission denied" in capsys.readouterr().err


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path, capsys):
    options = ["--model", "mlp:20", "--target", "0.9", "--probe", "0", "--pairs", "8"]
    arguments = [*options, "--out", str(tmp_path / "run"), "--resume"]
    first = cheaplip("train", "digits", *arguments, "--epochs", "5000", folder=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.05)
    assert run(["train", "digits", *arguments, "--epochs", "5000"]) == 2
    assert f"another process is at work in {tmp_path / 'run'}" in capsys.readouterr().err
    first.kill()
    first.communicate()
    with RunFolder(tmp_path / "run").locked():
        pass
    shutil.rmtree(tmp_path / "run")
    assert run(["train", "digits", *arguments, "--epochs", "1"]) == 0
