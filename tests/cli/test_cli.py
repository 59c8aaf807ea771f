"""The command line: what each command prints and keeps, and that bad input is one line and exit status 2."""

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console
from rich.progress import TextColumn

from cheaplip.cli import run
from cheaplip.cli.console import LoggedProgress

NETWORK = ["--epochs", "1", "--model", "mlp:8", "--activation", "relu", "--probe", "0", "--search", "8"]
TINY = [*NETWORK, "--target", "0.6"]  # named, so that no plain network is trained first


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", "digits", "--out", str(path), "--no-measure", *TINY]) == 0
    return path


@pytest.fixture
def trained(once, tmp_path):
    """A finished run, for the test alone."""
    return shutil.copytree(once, tmp_path / "run")


def test_train_prints_a_table(tmp_path, capsys):
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *NETWORK]) == 0
    out = capsys.readouterr().out
    assert "accuracy, test" in out
    assert "largest quotient found" in out


def test_json_alone_on_standard_output(tmp_path, capsys):
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *TINY, "--no-measure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_evaluate_adds_the_keys_asked_for(trained, capsys):
    assert (
        run(["evaluate", str(trained), "--attacks", "noise,pgd", "--epsilon", "1,2", "--samples", "20", "--json"]) == 0
    )
    assert list(json.loads(capsys.readouterr().out)["robust"]) == ["noise@1.0", "noise@2.0", "pgd@1.0", "pgd@2.0"]


def test_one_attack_that_looks_for_near_inputs_draws_a_curve(trained, capsys):
    capsys.readouterr()
    assert run(["evaluate", str(trained), "--attacks", "fmn", "--samples", "20", "--json"]) == 0
    robust = json.loads(capsys.readouterr().out)["robust"]
    assert len(robust) == 4
    assert list(robust.values()) == sorted(robust.values(), reverse=True)


def test_corruptions_have_sizes_that_suit_the_data(trained, capsys):
    capsys.readouterr()
    assert run(["evaluate", str(trained), "--attacks", "blur,brightness", "--samples", "20", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["robust"]) == ["blur@1.0", "brightness@0.2"]
    page = (trained / "report.html").read_text()
    assert "blur \\u03c3 (pixels)" in page
    assert "brightness \\u00b1 \\u03b4 (units of the input)" in page


def test_bracket_prints_both_ends_and_keeps_them(trained, capsys):
    before = json.loads((trained / "metrics.json").read_text())["lipschitz"]["lower"]
    capsys.readouterr()
    assert run(["bracket", str(trained), "--seconds", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kept = json.loads((trained / "metrics.json").read_text())["lipschitz"]
    assert found["lower"] <= found["upper"]
    assert kept == {"lower": max(before, found["lower"]), "upper": found["upper"], "upper_method": found["method"]}
    assert run(["bracket", str(trained), "--seconds", "0", "--method", "norms", "--norm", "inf"]) == 0
    assert re.search(r"│ method +│ +norms │", capsys.readouterr().out)
    assert json.loads((trained / "metrics.json").read_text())["lipschitz"] == kept


def test_bracket_by_a_published_bound(trained, capsys):
    assert run(["bracket", str(trained), "--seconds", "0", "--method", "combettes-pesquet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "combettes-pesquet"
    assert found["lower"] <= found["upper"]


def test_an_estimate_has_a_row_of_its_own_and_is_not_kept(trained, capsys):
    capsys.readouterr()
    assert run(["bracket", str(trained), "--seconds", "0", "--method", "clever", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["upper"] is None
    assert found["method"] == "none"
    assert found["estimate"]["largest"] <= found["estimate"]["value"]
    assert "upper" not in json.loads((trained / "metrics.json").read_text())["lipschitz"]
    assert run(["bracket", str(trained), "--seconds", "0", "--method", "clever"]) == 0
    assert re.search(r"│ clever, an estimate, no bound +│ +[\d.]+ │", capsys.readouterr().out)


def test_compare_prints_a_row_for_each_method(tmp_path, capsys):
    arguments = ["compare", "digits", "--methods", "plain,clip", "--attacks", "noise,pgd", "--samples", "20", *NETWORK]
    assert run([*arguments, "--seeds", "0,1", "--out", str(tmp_path / "all")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"│ plain +│ +[\d.]+ ±", out)
    assert re.search(r"│ clip +│ +[\d.]+ ±", out)
    assert {row["seed"] for row in json.loads((tmp_path / "all" / "results.json").read_text())} == {0, 1}


def test_own_data_and_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import numpy, torch\n"
        "def data():\n"
        "    x = numpy.random.default_rng(0).random((200, 2, 3))\n"
        "    return x, (x.sum((1, 2)) > 3).astype(int)\n"
        "def net(shape, outputs):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, outputs))\n"
    )
    assert (
        run(
            [
                "train",
                "mine:data",
                "--model",
                "mine:net",
                "--out",
                "run",
                "--epochs",
                "1",
                "--probe",
                "2",
                "--search",
                "8",
                "--target",
                "0.6",
                "--no-measure",
            ]
        )
        == 0
    )


def bad_file(name, content):
    return lambda folder: (folder / name).write_text(content)


def nan_data(folder):
    np.savez(folder / "x.npz", x=np.full((20, 2), np.nan), y=np.arange(20) % 2)


def bad_labels(folder):
    np.savez(folder / "x.npz", x=np.ones((20, 2)), y=np.arange(20) - 5)


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        pytest.param(None, ["train", "mnits", "--out", "r"], "'mnist'", id="data"),
        pytest.param(None, ["train", "digits", "--out", "r", "--model", "nope"], "unknown model 'nope'", id="model"),
        pytest.param(
            None, ["train", "digits", "--out", "r", "--method", "nope"], "method: expected one of", id="method"
        ),
        pytest.param(None, ["evaluate", "r", "--attacks", "nope"], "attacks: expected one of", id="attack"),
        pytest.param(
            None, ["compare", "digits", "--out", "r", "--methods", "plain,nope"], "methods: expected", id="methods"
        ),
        pytest.param(
            None, ["compare", "digits", "--out", "r", "--seeds", "a"], "seeds: expected whole numbers", id="seeds"
        ),
        pytest.param(
            None, ["compare", "digits", "--out", "r", "--epsilon", "-1"], "epsilon: expected finite", id="epsilon"
        ),
        pytest.param(None, ["train", "digits", "--out", "r", "--target", "97"], "97 % is 0.97", id="target"),
        pytest.param(None, ["train", "digits", "--out", "r", "--lam", "-1"], "lam: expected", id="lam"),
        pytest.param(
            None,
            ["train", "digits", "--out", "r", "--pairs", "0"],
            "pairs: expected a whole number of 1 or more",
            id="size",
        ),
        pytest.param(None, ["train", "digits", "--out", "r", "--epohcs", "3"], "--epohcs", id="misspelt-option"),
        pytest.param(None, ["train", "digits", "--out", "r", "--epochs", "x"], "epochs", id="not-a-number"),
        pytest.param(None, ["train", "digits"], "--out", id="no-out"),
        pytest.param(None, ["evaluate", "nowhere"], "no metrics.json in nowhere", id="no-run"),
        pytest.param(None, ["bracket", "nowhere"], "no metrics.json in nowhere", id="no-run-to-bracket"),
        pytest.param(None, ["bracket", "r", "--norm", "3"], "norm: expected 1, 2 or inf, got '3'", id="norm"),
        pytest.param(None, ["bracket", "r", "--method", "sdp"], "method: expected one of", id="upper-method"),
        pytest.param(None, ["bracket", "r", "--seconds", "-1"], "seconds: expected a finite", id="seconds"),
        pytest.param(None, [], "train", id="no-command"),
        pytest.param(nan_data, ["train", "x.npz", "--out", "r"], "NaN", id="nan"),
        pytest.param(bad_labels, ["train", "x.npz", "--out", "r"], "got -5", id="labels"),
        pytest.param(
            bad_file("x.csv", "a,b\n1,2\n1,2,3\n"),
            ["train", "x.csv", "--label", "b", "--out", "r"],
            "line 3",
            id="ragged",
        ),
        pytest.param(
            bad_file("x.csv", "a,b\n1,2\n"),
            ["train", "x.csv", "--label", "c", "--out", "r"],
            "'c'",
            id="no-label-column",
        ),
        pytest.param(
            bad_file("r", ""),
            ["train", "digits", "--out", "r"],
            "cannot write to output folder r",
            id="file-in-the-way",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(prepare, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if prepare is not None:
        prepare(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "r" / "model.safetensors").exists()


def test_a_full_folder_is_kept_without_overwrite(trained, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert run(["train", "digits", "--out", str(trained), *TINY]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert run(["train", "digits", "--out", str(trained), *TINY, "--overwrite", "--no-measure"]) == 0


def test_compare_refuses_a_foreign_folder(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run(["compare", "digits", "--out", str(tmp_path), *TINY]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


def test_interrupt_saves_and_resume_continues(tmp_path):
    arguments = [
        sys.executable,
        "-m",
        "cheaplip",
        "train",
        "digits",
        "--out",
        "run",
        "--epochs",
        "2000",
        "--target",
        "98%",
        "--probe",
        "0",
    ]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the state is saved" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "checkpoint.json").read_text())["step"] > 0


def test_help_names_every_command(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "compare", "evaluate"))


def test_module_entry_point():
    done = subprocess.run([sys.executable, "-m", "cheaplip", "--help"], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout


def test_a_table_with_features_of_different_ranges_is_compared_without_autoattack(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.random((200, 2)) * [1, 30]
    lines = ["a,b,kind", *(f"{a},{b},{'x' if b > 15 else 'y'}" for a, b in x)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    arguments = [
        "compare",
        str(tmp_path / "x.csv"),
        "--label",
        "kind",
        "--methods",
        "clip",
        "--out",
        str(tmp_path / "r"),
    ]
    assert run([*arguments, *TINY, "--json"]) == 0
    names = {key.split("@")[0] for key in json.loads(capsys.readouterr().out)[0]["robust"]}
    assert names == {"noise", "pgd-sign", "pgd"}


def test_overwrite_with_bad_options_deletes_nothing(tmp_path, capsys):
    arguments = ["compare", "digits", "--methods", "plain", "--attacks", "noise", "--samples", "9", *TINY]
    assert run([*arguments, "--out", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for wrong in (["--attacks", "bogus"], ["--model", "nope"], ["--epsilon", "-1"], ["--seeds", "1.5"]):
        assert run([*arguments, "--out", str(tmp_path), "--overwrite", *wrong]) == 2
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before, wrong


def test_compare_attacks_again_with_another_number_of_samples(tmp_path, capsys):
    arguments = [
        "compare",
        "digits",
        "--methods",
        "plain",
        "--attacks",
        "noise",
        "--out",
        str(tmp_path),
        *TINY,
        "--json",
    ]
    counts = []
    for samples in ("9", "20"):
        assert run([*arguments, "--samples", samples]) == 0
        counts.append(json.loads(capsys.readouterr().out)[0]["robust_samples"])
    assert [list(count.values()) for count in counts] == [[9], [20]]


def test_a_bad_option_is_told_without_the_parsers_own_names(capsys):
    assert run(["train", "digits", "--every", "0", "--out", "unused"]) == 2
    assert capsys.readouterr().err.startswith("cheaplip: every: expected a whole number of 1 or more, got 0")


@pytest.mark.parametrize(("form", "status"), [("joint", 2), ("separate", 0)])
def test_batch_norm_wants_the_separate_form(form, status, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n"
        "def net(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, outputs))\n"
    )
    arguments = [
        "train",
        "digits",
        "--model",
        "normed:net",
        "--epochs",
        "1",
        "--probe",
        "2",
        "--search",
        "8",
        "--target",
        "0.6",
        "--out",
        "r",
        "--no-measure",
    ]
    assert run([*arguments, "--form", form]) == status
    if status:
        err = capsys.readouterr().err
        assert "layer '1' (BatchNorm1d)" in err
        assert "form: this model needs --form separate" in err
        assert not (tmp_path / "r").exists()


def test_a_device_that_is_not_there(tmp_path, capsys):
    assert run(["train", "digits", "--out", str(tmp_path / "r"), "--device", "quantum", *TINY]) == 2
    assert "device: cannot use 'quantum'" in capsys.readouterr().err


def test_a_log_is_told_of_progress_now_and_then():
    now, log = 0.0, io.StringIO()
    with LoggedProgress(
        TextColumn("{task.description} {task.completed}"), console=Console(file=log), get_time=lambda: now
    ) as bar:
        finished, trained, _waiting = bar.add_task("first"), bar.add_task("second"), bar.add_task("third", start=False)
        bar.update(finished, completed=100)
        for minute in range(100):
            now = 60.0 * minute
            bar.update(trained, completed=minute)
        told = [line.split() for line in log.getvalue().splitlines()]
    assert told[:3] == [["second", "1"], ["second", "2"], ["second", "3"]]
    assert {name for name, _ in told} == {"second"}
    gaps = [int(later) - int(earlier) for (_, earlier), (_, later) in itertools.pairwise(told)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 5


def test_a_terminal_is_not():
    now, screen = 0.0, io.StringIO()
    console = Console(file=screen, force_terminal=True)
    with LoggedProgress(
        TextColumn("{task.description}"), console=console, get_time=lambda: now, auto_refresh=False
    ) as bar:
        task = bar.add_task("first")
        before = screen.getvalue()
        now = 1000.0
        bar.update(task, completed=50)
        assert screen.getvalue() == before
