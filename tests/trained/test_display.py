"""In a notebook, a bracket, a run and a frontier show themselves as tables and plots; and the notebook runs."""

import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import cheaplip
from cheaplip import Bracket
from cheaplip.data import load
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.frontier import Frontier, frontier, usual_attacks
from cheaplip.trained.loading import load_data, load_run
from cheaplip.training import TrainConfig, train
from cheaplip.training.progress import notebook_bar

ROOT = Path(__file__).parents[2]
RUN = Path(__file__).parents[1] / "runs" / "last_version" / "clip"
PAIR = (torch.zeros(2), torch.ones(2))


def row(name, method, test, robust, **rest):
    figures = {"accuracy": {"test": test}, "robust": {"noise@0.1": test, "pgd@0.2": robust}}
    return {"name": name, "method": method, **figures, "lipschitz": {"lower": 1.5}, **rest}


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@pytest.fixture
def curve():
    rows = [
        row("plain", "plain", 0.97, 0.2),
        row("clip 1 %", "clip", 0.96, 0.7, give_up=0.01),
        row("clip 2 %", "clip", 0.95, 0.75, give_up=0.02),
    ]
    return Frontier(rows, "pgd@0.2", "clip 1 %", ())


def test_a_bracket_is_a_table_and_an_interval(pyplot):
    b = cheaplip.bracket(nn.Linear(2, 1), shape=(2,), seconds=0.1)
    assert f"<td>{b.upper:.6g}</td>" in b._repr_html_()
    assert b.plot() is pyplot.gca()
    ax = pyplot.figure().add_subplot()
    assert Bracket(1.0, PAIR, math.inf, "none", 2, 0.1, "because <x>").plot(ax) is ax
    assert "because &lt;x&gt;" in Bracket(1.0, PAIR, math.inf, "none", 2, 0.1, "because <x>")._repr_html_()


def test_a_run_is_a_table_and_its_training(pyplot):
    run = load_run(RunFolder(RUN), load("digits"))
    shown, metrics = run._repr_html_(), run.metrics()
    assert f"<td>{100 * metrics['accuracy']['test']:.2f} %</td>" in shown
    assert f"<td>{metrics['lipschitz']['lower']:.4g}</td>" in shown
    lines = run.plot().get_lines()
    assert [len(line.get_xdata()) for line in lines] == [2, 2]


def test_a_frontier_is_a_table_and_a_curve(curve, pyplot):
    assert "clip 1 % (the knee)" in curve._repr_html_()
    assert "75.0" in curve._repr_html_()
    ax = curve.plot()
    assert [line.get_label() for line in ax.get_lines()] == ["plain", "clip"]
    assert [text.get_text() for text in ax.texts] == ["knee"]


def test_without_matplotlib_the_remedy_is_named(curve, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'cheaplip\[plots\]'"):
        curve.plot()


def test_a_bracket_prints_on_one_line_and_stays_a_dataclass():
    b = cheaplip.bracket(nn.Linear(200, 1), shape=(200,), seconds=0.1)
    assert repr(b) == f"Bracket(lower={b.lower:.6g}, upper={b.upper:.6g}, method={b.method!r})"
    plain = Bracket(1.0, PAIR, math.inf, "none", 2, 0.1)
    assert repr(plain) == "Bracket(lower=1, upper=inf, method='none')"
    assert plain == replace(plain)
    assert plain != replace(plain, upper=2.0)
    assert replace(plain, upper=2.0).witness is PAIR
    again = pickle.loads(pickle.dumps(b))
    assert (again.lower, again.upper, again.fingerprint) == (b.lower, b.upper, b.fingerprint)
    estimated = cheaplip.bracket(nn.Linear(2, 1), shape=(2,), seconds=0.1, method="clever")
    assert f", estimate={estimated.estimate.value:.6g})" in repr(estimated)


def test_a_frontier_prints_on_one_line_and_stays_a_dataclass(curve):
    assert repr(curve) == "Frontier(3 rows: plain, clip 1 %, clip 2 %; attack='pgd@0.2', knee='clip 1 %')"
    assert repr(replace(curve, missing=("clip 4 %",))).endswith("knee='clip 1 %', missing=1)")
    assert pickle.loads(pickle.dumps(curve)) == curve


@pytest.mark.parametrize("kind", [str, Path, RunFolder])
def test_a_run_is_loaded_by_its_path_and_prints_on_one_line(kind):
    run = load_run(kind(RUN), load("digits"))
    assert repr(run) == f"TrainedModel('clip', model=Sequential, data='digits', folder={str(RUN)!r})"
    assert repr(replace(run, folder=None)).endswith("data='digits', folder=None)")


def test_what_is_no_path_of_a_run_is_refused():
    with pytest.raises(TypeError, match=r"^folder: expected the path of a run's folder, got int$"):
        load_run(3)


class Shell:
    """As much of IPython in a kernel as a bar asks for."""

    kernel = None

    def __init__(self):
        self.outputs = []

    def display(self, shown, *, raw, display_id):
        assert raw
        assert display_id
        self.outputs.append([shown])
        return SimpleNamespace(update=lambda shown, raw: self.outputs[-1].append(shown))


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    display = SimpleNamespace(display=shell.display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shell


def test_a_bar_is_one_output_that_changes_now_and_then(shell):
    show = notebook_bar("train <clip>")
    for done in range(1001):
        show(done / 1000, "λ 0.1")
    (bar,) = shell.outputs
    assert 2 <= len(bar) <= 10
    assert bar[0]["text/plain"] == "train <clip> 0 % λ 0.1"
    assert "<progress value='1.0000'" in bar[-1]["text/html"]
    assert "train &lt;clip&gt; 100 % λ 0.1" in bar[-1]["text/html"]


@pytest.mark.parametrize("console", [True, False], ids=["IPython without a kernel", "a script"])
def test_there_is_no_bar_outside_a_notebook(console, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: object() if console else None))
    assert notebook_bar("train") is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert notebook_bar("train") is None


TINY = {"model": "mlp:4", "activation": "relu", "epochs": 1, "probe": 0, "search": 1}


@pytest.mark.filterwarnings("ignore::cheaplip.CheaplipWarning")  # they hardly learn anything
@pytest.mark.parametrize("given", [True, False], ids=["progress", "no progress"])
def test_training_shows_a_bar_for_each_network_unless_it_is_given_a_progress(given, shell, tmp_path, capsys):
    config = TrainConfig(data="digits", **TINY)
    seen = []

    def progress(*step):
        seen.append(step)

    both = {"progress": progress, "reference_progress": progress} if given else {}
    train(config, load_data(config), RunFolder(tmp_path / "run"), **both)
    last = [bar[-1]["text/plain"] for bar in shell.outputs]
    assert bool(seen) == given
    assert [text.split(" 100 % ")[0] for text in last] == (
        [] if given else ["train plain, for the target", "train clip"]
    )
    assert all(" val 0." in text for text in last)
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::cheaplip.CheaplipWarning")  # they hardly learn anything
def test_a_frontier_shows_one_bar(shell, tmp_path):
    config = TrainConfig(data="digits", **TINY)
    frontier(config, [0.02], tmp_path / "f", attacks=usual_attacks(load_data(config), samples=5))
    (bar,) = shell.outputs
    assert bar[-1]["text/plain"] == "frontier 100 %"


QUICKLY = {"search=64)": "search=4, epochs=2)", "seconds=5": "seconds=0.5", "[0, 0.01, 0.02]": "[0.02]"}


@pytest.mark.parametrize(
    "written", [pytest.param(True, id="as written", marks=pytest.mark.slow), pytest.param(False, id="two epochs")]
)
def test_the_quickstart_runs_from_top_to_bottom(written, tmp_path):
    path = ROOT / "examples" / "quickstart.ipynb"
    if not path.is_file():
        pytest.skip("needs the repository's examples/")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    assert 10 <= len(notebook.cells) <= 14
    if not written:
        for cell in notebook.cells:
            for slow, quick in QUICKLY.items():
                cell.source = cell.source.replace(slow, quick)
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    said = {
        name: " ".join(output.get("data", {}).get("text/html", "") for output in found)
        for name, found in outputs.items()
    }
    assert said["c3"].count("<progress value='1.0000'") == 2  # the plain network, and the stable one
    assert "accuracy, test" in said["c3"]
    assert "lower ≤ Lip(f) ≤ upper" in said["c6"]
    assert said["c10"].count("<progress value='1.0000'") == 1
    assert "clip 2 %" in said["c10"]
    assert all("image/png" in outputs[name][-1].data for name in ("c4", "c7", "c11"))
    said_aloud = [output for found in outputs.values() for output in found if output.output_type == "stream"]
    assert [output.text for output in said_aloud if output.name == "stdout"] == [outputs["c8"][0].text]
    shown = {name: [output for output in found if output.output_type != "stream"] for name, found in outputs.items()}
    assert [len(shown[name]) for name in ("c1", "c3", "c10")] == [0, 3, 2]  # a bar is one output
    if written:
        assert [output.text for output in said_aloud if output.name == "stderr" and "Warning" in output.text] == []
