"""The benchmark for a GPU: cycles are composed right, and its small version runs on a CPU."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the repository's benchmarks/")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


def row(method, milliseconds, **changes):
    kind = {"model": "mlp", "dtype": "float32", "compiled": False, "channels_last": False, "batch": 8, "pairs": 4}
    return {**kind, "method": method, "milliseconds": milliseconds, **changes}


def test_a_cycle_is_composed_of_a_step_that_regularises_and_idle_ones(gpu):
    rows = [row("plain", 2.0), row("clip", 10.0), row("clip idle", 2.4), row("adversarial", 16.0)]
    found = {entry["method"]: entry["ratio"] for entry in gpu.with_ratios(rows, (1, 4))}
    expected = {
        "plain": 1,
        "clip every 1": 5,
        "clip every 4": (10 + 3 * 2.4) / 4 / 2,
        "clip idle": 1.2,
        "adversarial": 8,
    }
    assert found == pytest.approx(expected)


def test_a_step_is_compared_with_the_plain_one_of_its_kind(gpu):
    rows = [row("plain", 2.0), row("plain", 1.0, dtype="bfloat16"), row("adversarial", 4.0, dtype="bfloat16")]
    assert gpu.with_ratios(rows)[2]["ratio"] == 4
    assert "ratio" not in gpu.with_ratios([row("adversarial", 4.0)])[0]


def test_what_the_time_does_not_allow_is_noted(gpu):
    plan = gpu.Plan.small(gpu.torch.device("cpu"), minutes=0.0)
    assert not plan.allows("a step", 10.0)
    assert plan.left_out == ["a step"]


@pytest.mark.slow
def test_the_small_version_runs(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--quick", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["machine"]["device"]
    assert result["left_out"] == []
    timed = {(entry["model"], entry["method"], entry["dtype"]) for entry in result["steps"] if "ratio" in entry}
    for dtype in ("float32", "bfloat16"):
        for method in ("plain", "clip every 1", "clip every 16", "adversarial"):
            assert {(model, method, dtype) for model in ("mlp", "cnn", "vit")} <= timed
    assert all(entry["lower"] > 0 for entry in result["training"])
