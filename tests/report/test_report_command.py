"""The command line: training ends with a page, and new figures renew it."""

import json
import re
import shlex
import shutil
import sys

import pytest

from cheaplip.cli import _parse, run
from cheaplip.cli.options import command_line
from report_folders import own

TINY = ["--epochs", "1", "--model", "mlp:8", "--activation", "relu", "--probe", "2", "--search", "8", "--target", "0.6"]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    path = tmp_path_factory.mktemp("reported") / "run"
    assert run(["train", "digits", "--out", str(path), *TINY, "--no-measure"]) == 0
    return path


@pytest.fixture
def trained(once, tmp_path):
    """A finished run with its page, for the test alone."""
    return shutil.copytree(once, tmp_path / "run")


@pytest.mark.parametrize(
    "line",
    [
        "train digits --out 'my run'",
        "train mnist --out r --method weight --seed 3 --target None --epochs 2",
        "compare digits --out r --methods plain,clip --seeds 0,1 --epsilon 0.5,1 --adversarial-steps 5",
    ],
)
def test_the_recorded_command_makes_the_same_again(line):
    name, *_ = words = shlex.split(line)
    command = _parse([*words])
    recorded = command_line(name, command)
    assert _parse(shlex.split(recorded)[1:]) == command
    assert len(shlex.split(recorded)) == len(words) + 1


def test_training_ends_with_a_report(tmp_path, capsys):
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *TINY, "--no-measure"]) == 0
    assert f"report: {tmp_path / 'run' / 'report.html'}" in capsys.readouterr().err
    page = own(tmp_path / "run" / "report.html")
    command = (
        "cheaplip train digits --model mlp:8 --activation relu --target 0.6 --epochs 1 --probe 2 --search 8 --out "
    )
    assert re.search(rf"<pre.*>{command}.+</pre>", page)
    assert page.count('src="data:image/png;base64,') == 3
    assert 'class="matrix"' in page
    pair = json.loads((tmp_path / "run" / "report.json").read_text())
    assert sum(map(sum, pair["confusion"])) == 359
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    right = sum(pair["confusion"][i][i] for i in range(10))
    assert right / 359 == pytest.approx(metrics["accuracy"]["test"])
    assert pair["witness"]["quotient"] == metrics["lipschitz"]["lower"]


def test_without_the_packages_training_says_so_and_report_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *TINY, "--no-measure"]) == 0
    assert "no report: a report needs plotly: pip install 'cheaplip[report]'" in capsys.readouterr().err
    assert run(["report", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == "cheaplip: a report needs plotly: pip install 'cheaplip[report]'\n"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["bracket", "--seconds", "0"], id="bracket"),
        pytest.param(["certify", "--epsilon", "0.001", "--seconds", "0"], id="certify"),
        pytest.param(["evaluate", "--attacks", "noise", "--epsilon", "0.125"], id="evaluate"),
    ],
)
def test_new_figures_renew_the_page(command, trained, capsys):
    folder = trained
    first = own(folder / "report.html")
    name, *options = command
    (folder / "report.html").unlink()
    assert run([name, str(folder), *options]) == 0
    assert not (folder / "report.html").exists()  # none was there: none is made
    assert run(["report", str(folder)]) == 0
    before = own(folder / "report.html")
    (folder / "report.html").write_text("old")
    capsys.readouterr()
    assert run([name, str(folder), *options, "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"report: {folder / 'report.html'}" in err
    assert json.loads(out)
    assert own(folder / "report.html") == before != first
    pair = json.loads((folder / "report.json").read_text())["witness"]
    assert pair["quotient"] == json.loads((folder / "metrics.json").read_text())["lipschitz"]["lower"]


def test_a_page_that_cannot_be_renewed_is_said_to_be_old(trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert run(["bracket", str(trained), "--seconds", "0"]) == 0
    assert "the report is older than these figures: a report needs plotly" in capsys.readouterr().err
