"""``cheaplip frontier``: the curve, its knee, and that it can be killed, and filled by several processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cheaplip.cli import run
from cheaplip.errors import ConfigError, InUseError, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.workers import work_through
from cheaplip.trained.frontier import points_of
from cheaplip.trained.knee import knee
from cheaplip.training import TrainConfig
from training_runs import timeless

TINY = ["--epochs", "2", "--model", "mlp:8", "--activation", "relu", "--probe", "0", "--search", "4", "--samples", "20"]
ARGUMENTS = ["frontier", "digits", *TINY, "--give-up", "0,2%", "--jobs", "1"]
NAMES = ["plain", "clip 0 %", "clip 2 %", "weight 0 %", "weight 2 %"]


def rows_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier") / "whole"
    assert run([*ARGUMENTS, "--out", str(folder)]) == 0
    return folder


def test_a_frontier_is_a_table_and_a_page(whole):
    rows = rows_of(whole)
    assert [row["name"] for row in rows] == NAMES
    assert [row.get("give_up") for row in rows] == [None, 0.0, 0.02, 0.0, 0.02]
    reached = rows[0]["accuracy"]["validation"]
    assert rows[0]["target"] is None
    assert [row["target"] for row in rows[1:]] == pytest.approx([reached, reached - 0.02] * 2, abs=1e-6)
    assert not list(whole.glob("**/reference"))
    assert all(set(row["robust"]) == {"noise@0.3", "pgd@0.6"} for row in rows)
    page = (whole / "report.html").read_text()
    assert "What stability costs" in page
    assert "What a small constant costs" in page
    assert "cheaplip frontier digits" in page


def test_two_shards_are_the_same_as_one_run(whole, tmp_path, capsys):
    for shard in ("2/2", "1/2"):
        assert run([*ARGUMENTS, "--shard", shard, "--out", str(tmp_path / "f")]) == 0
        if shard == "2/2":
            assert "not finished yet: plain, clip 2 %, weight 2 %" in capsys.readouterr().err
    assert timeless(rows_of(tmp_path / "f")) == timeless(rows_of(whole))


def test_a_finished_frontier_is_not_trained_again(whole, monkeypatch):
    before = rows_of(whole)
    monkeypatch.setattr("cheaplip.training.run.Training", None)
    monkeypatch.setattr("cheaplip.trained.compare.evaluate", None)
    assert run([*ARGUMENTS, "--out", str(whole)]) == 0
    assert rows_of(whole) == before


MARGINS = ["frontier", "digits", *TINY, "--margins", "0.3,0.1", "--norm", "inf", "--epsilon", "8/255", "--jobs", "1"]


def test_margins_are_a_curve_for_each_method_that_has_them(tmp_path, capsys, monkeypatch):
    out = tmp_path / "f"
    assert run([*MARGINS, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    rows = rows_of(out)
    named = [f"{method} margin {margin}" for method in ("scale-free", "certified") for margin in (0.1, 0.3)]
    assert [row["name"] for row in rows] == ["plain", *named]
    assert [row.get("margin") for row in rows] == [None, 0.1, 0.3, 0.1, 0.3]
    assert [config["margin"] for config in map(config_of, sorted(out.glob("*margin*")))] == [0.1, 0.3, 0.1, 0.3]
    assert all(set(row["robust"]) == {"noise@0.3", f"pgd-linf@{8 / 255}"} for row in rows)
    assert "pgd-linf" in shown
    assert "margin" in shown
    page = (out / "report.html").read_text()
    assert "m = 0.3" in page
    assert "What stability costs" in page
    assert "L∞-PGD" in page
    assert "--margins 0.3,0.1" in page
    monkeypatch.setattr("cheaplip.training.run.Training", None)
    assert run([*MARGINS, "--out", str(out)]) == 0  # nothing is trained again
    assert rows_of(out) == rows


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_a_method_that_does_not_fit_is_left_out_and_told(tmp_path, capsys, monkeypatch):
    (tmp_path / "odd_layers.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Wave(nn.Module):\n    def forward(self, x):\n        return x.sigmoid().cumprod(1)\n"
        "def net(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Wave(), nn.Linear(8, outputs))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["frontier", "digits", "--model", "odd_layers:net", "--epochs", "1", "--probe", "0", "--search", "2"]
    assert run([*arguments, "--samples", "5", "--margins", "0.1", "--jobs", "1", "--out", "f"]) == 0
    assert "left out: certified" in " ".join(capsys.readouterr().err.split())
    assert [row["name"] for row in rows_of(tmp_path / "f")] == ["plain", "scale-free margin 0.1"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_killed_frontier_continues(whole, tmp_path):
    out = tmp_path / "f"
    command = [sys.executable, "-m", "cheaplip", *ARGUMENTS, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 200
    while not list(out.glob("clip*/config.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run([*ARGUMENTS, "--out", str(out)]) == 0
    assert [row["name"] for row in rows_of(out)] == NAMES


@pytest.mark.slow
def test_jobs_and_shards_at_the_same_time_fill_one_folder(tmp_path):
    out = tmp_path / "f"
    arguments = [*ARGUMENTS[:-1], "2", "--out", str(out)]
    command = [sys.executable, "-m", "cheaplip", *arguments]
    processes = [subprocess.Popen([*command, "--shard", f"{i}/2"]) for i in (1, 2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert [row["name"] for row in rows_of(out)] == NAMES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "3/2"], "shard: expected i/n with i from 1 to n, such as 1/4, got '3/2'"),
        (["--shard", "0/2"], "shard: expected i/n"),
        (["--shard", "half"], "shard: expected i/n"),
        (["--give-up", "0.5%,lots"], "give-up: expected a fraction such as 0.005, or 0.5%, got 'lots'"),
        (["--give-up", "60%"], "give_up: expected points of accuracy, from 0 to below 0.5, got 0.6"),
        (["--margins", "0.1,0"], "margins: expected a positive number, got 0.0"),
        (["--margins", "some"], "margins: expected numbers separated by commas, got 'some'"),
        (["--margins", "0.1", "--give-up", "1%"], "margins: expected them in place of --give-up, got both"),
        (["--norm", "inf"], "epsilon: expected radii with norm inf, for the defaults are L2: use --epsilon 8/255"),
        (["--norm", "1", "--epsilon", "1"], "norm: expected 2 or inf for attacks on classification, got 1"),
        (["--epsilon", "0.1,0.2"], "epsilon: expected one radius, got '0.1,0.2': a frontier is about one"),
        (["--jobs", "0"], "jobs: expected 1 or more, got 0"),
        (["--samples", "0"], "samples: expected 1 or more, got 0"),
        (["--epsilon", "-1"], "epsilon: expected a positive number, got -1.0"),
        (["--model", "nope"], "unknown model 'nope'"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(options, message, tmp_path, capsys):
    assert run(["frontier", "digits", "--out", str(tmp_path / "f"), *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "f").exists()


def test_a_folder_with_something_else_or_other_options_is_refused(whole, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run([*ARGUMENTS, "--out", str(tmp_path)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert run([*ARGUMENTS, "--out", str(whole), "--seed", "1"]) == 2
    assert "holds a frontier with other options (seed)" in capsys.readouterr().err


def test_a_lock_that_is_held_has_an_error_of_its_own(tmp_path):
    with RunFolder(tmp_path).locked(), pytest.raises(InUseError) as caught, RunFolder(tmp_path).locked():
        pass
    assert isinstance(caught.value, RunError)


def test_the_knee_is_where_a_curve_bends():
    assert knee([0, 1, 2, 4], [0, 6, 8, 10]) == 1
    assert knee([4, 2, 1, 0], [10, 8, 6, 0]) == 2
    assert knee([0, 1, 2], [0, 1, 2]) is None  # a line has none
    assert knee([0, 1, 2], [0, 0.2, 2]) is None  # it bends the other way
    assert knee([0, 0, 0], [0, 3, 2]) == 1  # nothing is given up
    assert knee([0, 1], [0, 1]) is None


def test_points_are_named_after_what_they_give_up():
    points = points_of(TrainConfig(data="digits"), [0.005, 0.0, 0.005])
    assert [point.name for point in points] == ["plain", "clip 0 %", "clip 0.5 %", "weight 0 %", "weight 0.5 %"]
    assert len({point.folder for point in points}) == 5
    assert all(re.fullmatch(r"[\w.+-]+", point.folder) for point in points)
    for amounts, margins in (([], []), ([0.1], [0.1])):
        with pytest.raises(ConfigError, match="at least one amount"):
            points_of(TrainConfig(data="digits"), amounts, margins)
    with pytest.raises(ConfigError, match="scale-free does not apply to regression"):
        points_of(TrainConfig(data="digits", task="regression"), [], [0.1])


def _killed(report, stop):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix" or os.cpu_count() == 1, reason="needs signals, and two cores")
def test_a_process_that_is_ended_from_outside_is_told_in_a_sentence():
    with pytest.raises(RunError, match="a process was ended from outside, perhaps for want of memory"):
        list(work_through({"a": _killed, "b": _killed}, jobs=2))
