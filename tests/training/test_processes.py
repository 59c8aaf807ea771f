"""``torchrun -m cheaplip train``: the run of one process, by several; one of them killed; resumed by others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import Interrupted
from cheaplip.runs.checkpoints import newest, unpack
from cheaplip.runs.folder import RunFolder
from cheaplip.training.config import TrainConfig
from cheaplip.training.processes import broadcast, leads
from cheaplip.training.run import train
from several_processes import on_ranks
from training_runs import stop_after

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available() or os.name != "posix", reason="needs gloo and signals"),
    pytest.mark.usefixtures("whole_searches"),
]

# short climbs: few pairs that climb far turn differences of rounding into others
OPTIONS = [
    "--model",
    "mlp:20",
    "--activation",
    "tanh",
    "--probe",
    "8",
    "--pairs",
    "8",
    "--step-size",
    "0.015",
    "--target",
    "0.9",
    "--resume",
    "--no-measure",
]


def torchrun(count, folder, *arguments, method="clip", epochs=3):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), f"--master-port={port()}"]
    command += ["-m", "cheaplip", "train", "digits", *OPTIONS, "--method", method, "--epochs", str(epochs), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process(rank, count, at, folder, *arguments):
    """One of several processes, started without torchrun."""
    names = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": at}
    command = [sys.executable, "-m", "cheaplip", "train", "digits", *OPTIONS, *arguments]
    environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE)


def alone(folder, *arguments, method="clip", epochs=3):
    assert run(["train", "digits", *OPTIONS, "--method", method, "--epochs", str(epochs), *arguments]) == 0


def check_same(one, other, tolerance=1e-4):
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    for name, weights in first.items():
        torch.testing.assert_close(second[name], weights, rtol=tolerance, atol=tolerance)
    lines = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()] for run in (one, other)]
    assert [line["epoch"] for line in lines[0]] == [line["epoch"] for line in lines[1]]
    for here, there in zip(*lines, strict=True):
        assert here.keys() == there.keys()
        for key in here.keys() - {"seconds"}:
            assert there[key] == pytest.approx(here[key], rel=1e-2), key
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[1]["lipschitz"]["lower"] == pytest.approx(metrics[0]["lipschitz"]["lower"], rel=1e-2)


@pytest.mark.parametrize(
    ("count", "method", "form"),
    [
        pytest.param(2, "clip", "joint", id="2 processes"),
        pytest.param(4, "clip", "joint", id="4 processes", marks=pytest.mark.slow),
        pytest.param(2, "clip", "separate", id="2, separate", marks=pytest.mark.slow),
        pytest.param(2, "weight", "joint", id="2, weight", marks=pytest.mark.slow),
        pytest.param(2, "plain", "joint", id="2, plain", marks=pytest.mark.slow),
    ],
)
def test_several_processes_train_as_one_does(count, method, form, tmp_path):
    epochs = 2 if count == 2 else 1  # more processes, more differences of rounding, which each epoch amplifies
    alone(tmp_path, "--out", str(tmp_path / "one"), "--form", form, method=method, epochs=epochs)
    done = torchrun(count, tmp_path, "--out", "several", "--form", form, "--json", method=method, epochs=epochs)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "several" / "metrics.json").read_text())
    check_same(tmp_path / "one", tmp_path / "several")


def wait_for_checkpoint(folder, processes):
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.previous.safetensors").exists():
        assert time.monotonic() < deadline
        assert all(one.poll() is None for one in processes)
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 0], ids=["second", "first"])
def test_a_killed_process_is_named_and_the_run_goes_on_with_another_number(killed, tmp_path):
    alone(tmp_path, "--out", str(tmp_path / "whole"), epochs=3)
    at = port()
    arguments = ["--out", "cut", "--epochs", "3", "--checkpoint-every", "0.001m"]
    processes = [process(rank, 2, at, tmp_path, *arguments) for rank in range(2)]
    wait_for_checkpoint(tmp_path / "cut", processes)
    processes[killed].kill()
    _, said = processes[1 - killed].communicate(timeout=60)
    processes[killed].communicate()
    assert processes[1 - killed].returncode == 2
    assert f"cheaplip: process {killed} of 2 (counted from 0) ended before the training did" in said
    assert "Traceback" not in said
    state = unpack(newest(tmp_path / "cut"))
    assert state["step"] > 0
    assert len(state["penalty"]["pairs.u"]) == 8
    alone(tmp_path, "--out", str(tmp_path / "cut"), epochs=3)
    check_same(tmp_path / "whole", tmp_path / "cut", tolerance=1e-3)


@pytest.mark.slow
def test_torchrun_fails_when_a_process_is_killed_and_resumes_with_more(tmp_path):
    (tmp_path / "victim.py").write_text(
        "import os, signal, torch\n"
        "class Victim(torch.nn.Linear):\n"
        "    passes = 0\n"
        "    def forward(self, x):\n"
        "        Victim.passes += 1\n"
        "        if Victim.passes == 100 and os.environ.get('RANK') == '1' and 'MARTYR' in os.environ:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().forward(x.flatten(1))\n"
        "def net(shape, outputs):\n"
        "    return Victim(64, outputs)\n"
    )
    os.environ["MARTYR"] = "1"
    done = torchrun(2, tmp_path, "--out", "run", "--model", "victim:net")
    del os.environ["MARTYR"]
    assert done.returncode != 0
    assert "process 1 of 2 (counted from 0) ended before the training did" in done.stderr
    done = torchrun(4, tmp_path, "--out", "run", "--model", "victim:net")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_an_interrupt_stops_all_processes_at_the_same_step(tmp_path):
    at = port()
    processes = [process(rank, 2, at, tmp_path, "--out", "run", "--epochs", "5000") for rank in range(2)]
    wait_for_checkpoint(tmp_path / "run", processes)
    processes[1].send_signal(signal.SIGTERM)
    said = [one.communicate(timeout=60)[1] for one in processes]
    assert [one.returncode for one in processes] == [130, 130], said
    assert unpack(newest(tmp_path / "run"))["step"] > 0


def cut_and_resumed(folder: str) -> dict[str, torch.Tensor]:
    """A run, and the same one interrupted in the middle of an epoch and continued: is everything but times equal?"""
    config = TrainConfig(data="digits", model="mlp:20", activation="tanh", epochs=2, pairs=8, probe=0, target=0.9)
    digits = load("digits")
    whole, cut = RunFolder(Path(folder) / "whole"), RunFolder(Path(folder) / "cut")
    train(config, digits, whole)
    with pytest.raises(Interrupted):
        train(config, digits, cut, stop=stop_after(7))
    step = unpack(broadcast(newest(cut.path) if leads() else None))["step"]
    train(config, digits, cut, resume=True)
    weights = [load_file(run.path / "model.safetensors") for run in (whole, cut)] if leads() else [{}, {}]
    losses = [[line["loss"] for line in run.history()] if leads() else [] for run in (whole, cut)]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]) and losses[0] == losses[1]
    return {"same": torch.tensor(same), "step": torch.tensor(step)}


def test_the_same_number_of_processes_continues_bit_for_bit(tmp_path):
    for found in on_ranks(2, cut_and_resumed, tmp_path, str(tmp_path)):
        assert bool(found["same"])
        assert 40 < int(found["step"]) < 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "7"], "pairs: expected a multiple of the number of processes (2), got 7"),
        (["--batch-size", "1"], "batch_size: expected an input for each of 2 processes, got 1"),
    ],
    ids=["pairs", "batch"],
)
@pytest.mark.slow
def test_what_cannot_be_divided_is_refused(arguments, message, tmp_path):
    done = torchrun(2, tmp_path, "--out", "run", *arguments)
    assert done.returncode != 0
    assert f"cheaplip: {message}" in done.stderr
