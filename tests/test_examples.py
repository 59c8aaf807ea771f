"""Every example runs, and says an accuracy and a largest quotient that mean something.

Those of the frameworks are slow; the code of their pages, in ``test_docs.py``, is not.
"""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs the repository's examples/"),
    pytest.mark.filterwarnings("ignore"),  # the frameworks' own
]
NEEDS = {
    "plain": [],
    "with_accelerate": ["accelerate"],
    "with_fabric": ["lightning"],
    "with_lightning": ["lightning"],
    "with_sklearn": ["skorch"],
    "with_transformers": ["transformers", "accelerate"],
}


def check(printed: str) -> None:
    found = re.search(r"test accuracy ([\d.]+), largest quotient found ([\d.]+), λ ([\d.e-]+)", printed)
    assert found, printed
    accuracy, quotient, lam = map(float, found.groups())
    assert 0.7 < accuracy <= 1
    assert 0 < quotient < 100
    assert lam > 0


@pytest.mark.parametrize(
    "name", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in NEEDS if name != "plain")]
)
def test_an_example_runs(name, capsys, monkeypatch, tmp_path):
    for package in ["sklearn", *NEEDS[name]]:
        pytest.importorskip(package, reason="needs the extra named in the example")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    check(capsys.readouterr().out)


@pytest.mark.slow
def test_two_processes_run():
    pytest.importorskip("sklearn", reason="needs the extra cli")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(EXAMPLES / "ddp.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    check(done.stdout)


def test_the_picture_is_drawn(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="needs the extra cli")
    matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plots")
    matplotlib.use("agg")
    names = runpy.run_path(str(EXAMPLES / "moons.py"))
    monkeypatch.setitem(names["main"].__globals__, "GRID", 40)
    monkeypatch.setattr(names["train"], "__defaults__", (60,))
    names["main"](str(tmp_path / "moons.png"))
    assert (tmp_path / "moons.png").stat().st_size > 1000
    assert capsys.readouterr().out.count("largest quotient found") == 2


def test_none_is_left_out():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NEEDS, "ddp", "moons"}
