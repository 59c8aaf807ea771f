"""The documentation's code runs as it stands, page by page; its commands parse; the API pages are complete."""

import csv
import importlib
import json
import re
import runpy
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Names

import pytest
import torch
import torch.distributed as dist
from torch import nn

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.is_file()
}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NEEDS = {  # page: (what its blocks import, the extra that brings it)
    "docs/methods.md": ("tyro", "cli"),
    "docs/tutorial-table.md": ("foolbox", "cli"),
    "docs/tutorial-images.md": ("foolbox", "cli"),
    "docs/with-accelerate.md": ("accelerate", "huggingface"),
    "docs/with-fabric.md": ("lightning", "lightning"),
    "docs/with-lightning.md": ("lightning", "lightning"),
    "docs/with-skorch.md": ("skorch", "skorch"),
    "docs/with-transformers.md": ("transformers", "huggingface"),
}
DISTRIBUTED = ["docs/scaling.md", "docs/with-ddp.md"]
FRAMEWORKS = {"accelerate", "lightning", "skorch", "transformers"}  # they warn about themselves
PUBLIC = ["cheaplip", "cheaplip.lipschitz", "cheaplip.robustness", "cheaplip.integrations.lazy"]
ADAPTERS = {"lightning": "lightning", "skorch": "skorch", "huggingface": "transformers"}
RESULT = re.compile(r"^\| \[([\w./-]+)\]\(\1\) \| [^|]+ \| ([^|]+) \| [0-9a-f]{7} \| [^|]+ \|$", re.MULTILINE)
RESULTS = dict(RESULT.findall(PAGES.get("results/README.md", "")))  # a folder or file: how it was made
TRAININGS = {  # as the README's table names them
    "plain": "plain",
    "weight regularisation": "weight",
    "**CLIP**": "clip",
    "adversarial training": "adversarial",
    "**CLIP without a scale**": "scale-free",
}

pytestmark = pytest.mark.skipif(len(PAGES) < 2, reason="needs the repository's README.md and docs/")
needs_results = pytest.mark.skipif(not RESULTS, reason="needs the repository's results/")


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in one language, without the indentation of its fence."""
    return [
        re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        for indent, kind, code in BLOCK.findall(PAGES[page])
        if kind == language
    ]


def commands(page: str) -> Iterator[str]:
    """The shell lines of a page, continued lines joined, comments off."""
    for language in ("", "bash", "shell"):
        for block in blocks(page, language):
            for line in block.replace("\\\n", " ").splitlines():
                yield re.sub(r"\s+# .*", "", line).strip()


def write_modules(page: str) -> None:
    """Write the page's blocks that begin with the name of a file, such as ``# mine.py``, into the current folder."""
    for code in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            Path(named[1]).write_text(code, encoding="utf-8")


def setting() -> dict[str, object]:
    """What a page may take for granted: data, a model, an optimiser, a criterion."""
    torch.manual_seed(0)
    x = torch.rand(128, 4)
    y = (x.sum(1) > 2).long()
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    return {
        "x_train": x,
        "y_train": y,
        "x_test": x[:64],
        "y_test": y[:64],
        "x": x[:64],
        "y": y[:64],
        "loader": [(x[:64], y[:64]), (x[64:], y[64:])] * 10,
        "model": model,
        "criterion": nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }


def write_run() -> None:
    """runs/digits: a finished run."""
    for package in ("sklearn", "tyro"):
        pytest.importorskip(package, reason="needs the extra cli, for a run")
    shutil.copytree(ROOT / "tests" / "runs" / "last_version" / "clip", "runs/digits")


BEFORE: dict[str, Callable[[], None]] = {"docs/command-line.md": write_run}
"""What a page's code expects in the current folder."""


def run(page: str) -> Names:
    """What a page's blocks, one after the other, leave behind."""
    names = {"__name__": "page", **setting()}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return Names(**names)


def write_table() -> None:
    """mine.csv: columns in units of their own, a constant one, and a class in words."""
    pytest.importorskip("sklearn", reason="needs the extra cli, for a table")
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    with Path("mine.csv").open("w", newline="") as file:
        rows = [[*row, 7.0, data.target_names[kind]] for row, kind in zip(data.data, data.target, strict=True)]
        csv.writer(file).writerows([[*data.feature_names, "constant", "diagnosis"], *rows])


def readme(page: Names) -> None:
    assert page.clip.largest > 0
    assert 0 < page.bracket.lower <= page.bracket.upper < float("inf")
    assert (page.radius > 0).any()


def quick_start(page: Names) -> None:
    assert (page.model(page.x).argmax(1) == page.y).float().mean() > 0.9
    assert 0 < page.found.lower <= page.found.upper < float("inf")
    assert page.radius.median() > 0


def loop(page: Names) -> None:
    assert page.clip.training
    assert page.clip.largest > 0
    assert page.penalty.largest > 0


def settings(page: Names) -> None:
    assert 0.3 < page.clip.largest / page.found.value < 1.05
    assert page.every == 1


def trust(page: Names) -> None:
    assert page.unknown.upper == float("inf")
    assert "Hardshrink" in page.unknown.reason
    assert 0 < page.accuracy <= 1
    assert (page.low < page.high).all()


def table(page: Names) -> None:
    figures = page.figures
    assert figures["clip"]["bracket"].upper < figures["plain"]["bracket"].lower / 2
    assert figures["clip"]["pgd"] > figures["plain"]["pgd"]
    assert 0.5 < page.safe < figures["clip"]["test"]


def images(page: Names) -> None:
    figures = page.figures
    assert figures["clip"]["bracket"].lower < figures["plain"]["bracket"].lower
    assert figures["clip"]["pgd"].accuracy > figures["plain"]["pgd"].accuracy
    assert page.loose < page.certified
    assert page.proved.gap < 1.2


def own_model(page: Names) -> None:
    assert page.net((4,), 3)(torch.rand(5, 4)).shape == (5, 3)
    assert (page.prediction == page.labels).float().mean() == pytest.approx(page.accuracies["test"], abs=1e-6)
    assert 0 < page.found.lower <= page.found.upper < float("inf")


def skorch(page: Names) -> None:
    assert page.search.best_score_ > 0.8
    assert 0 < page.found.lower <= page.found.upper < float("inf")


CHECKS: dict[str, Callable[[Names], None]] = {
    "README.md": readme,
    "docs/settings.md": settings,
    "docs/command-line.md": own_model,
    "docs/index.md": quick_start,
    "docs/loop.md": loop,
    "docs/trust.md": trust,
    "docs/tutorial-images.md": images,
    "docs/tutorial-table.md": table,
    "docs/with-skorch.md": skorch,
}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if "tutorial" in page else ())
        for page in PAGES
        if page not in DISTRIBUTED and blocks(page, "python")
    ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    package = NEEDS[page][0] if page in NEEDS else "torch"
    pytest.importorskip(package, reason="needs the extra named on the page")
    monkeypatch.chdir(tmp_path)
    BEFORE.get(page, lambda: None)()
    with warnings.catch_warnings():
        if package in FRAMEWORKS:
            warnings.simplefilter("ignore")
        names = run(page)
    CHECKS.get(page, lambda names: None)(names)


@pytest.mark.parametrize("page", DISTRIBUTED)
def test_the_code_of_a_distributed_page_runs(page, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert run(page).clip.largest > 0
    finally:
        dist.destroy_process_group()


def test_a_page_names_its_extra():
    said = {page: rf"Needs the extra:? `({extra}|pip install '\.\[{extra}\]')`" for page, (_, extra) in NEEDS.items()}
    assert [page for page, words in said.items() if not re.search(words, PAGES[page])] == []


@pytest.mark.parametrize("page", [page for page in PAGES if any("cheaplip" in line for line in commands(page))])
def test_commands_parse(page, tmp_path, monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    from cheaplip.cli import _parse

    monkeypatch.chdir(tmp_path)
    write_modules(page)
    for line in commands(page):
        words = shlex.split(line)
        if "cheaplip" in words:
            assert not isinstance(_parse(words[words.index("cheaplip") + 1 :]), int), line


def test_scripts_that_commands_run_are_there():
    scripts = [
        (page, word) for page in PAGES for line in commands(page) for word in line.split() if word.endswith(".py")
    ]
    assert [(page, script) for page, script in scripts if not (ROOT / script).is_file()] == []


def test_the_first_table_takes_three_commands(tmp_path, monkeypatch, capsys):
    for package in ("jinja2", "plotly", "tyro"):
        pytest.importorskip(package, reason="needs the extras cli and report")
    from cheaplip.cli import run as run_command
    from cheaplip.runs.numbers import three_digits

    monkeypatch.chdir(tmp_path)
    write_table()
    tiny = ["--model", "mlp:8", "--epochs", "1", "--probe", "2", "--search", "8"]
    quick = {"train": tiny, "bracket": ["--seconds", "0"]}
    install, *others = list(commands("docs/first-table.md"))[:3]
    assert install == "pip install '.[report]'"
    for line, (name, options) in zip(others, quick.items(), strict=True):
        _, *words = shlex.split(line)
        assert words[0] == name
        assert run_command([*words, *options]) == 0
    lipschitz = json.loads(Path("runs/mine/metrics.json").read_text())["lipschitz"]
    assert 0 < lipschitz["lower"] <= lipschitz["upper"]
    assert three_digits(lipschitz["upper"]) in Path("runs/mine/report.html").read_text()
    assert "lower" in capsys.readouterr().out


def test_the_table_of_methods_is_that_of_their_classes():
    pytest.importorskip("tyro", reason="needs the extra cli")
    filled = runpy.run_path(str(ROOT / "docs" / "methods.py"))["filled"]
    assert filled(PAGES["docs/methods.md"]) == PAGES["docs/methods.md"], "python docs/methods.py updates the page"


def test_a_new_method_joins_the_table(monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    from cheaplip.training.methods import METHODS
    from cheaplip.training.methods.clip import Clip

    class Mine(Clip):
        name, adds, cost, source = "mine", "a term", "3", ""

    monkeypatch.setitem(METHODS, "mine", Mine)
    filled = runpy.run_path(str(ROOT / "docs" / "methods.py"))["filled"]
    assert "| `mine` | a term | yes | 3 | those of `clip` | – |\n" in filled(PAGES["docs/methods.md"])


def test_the_method_of_the_page_trains(tmp_path, monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    from cheaplip.cli import run as run_command

    monkeypatch.chdir(tmp_path)
    write_modules("docs/methods.md")
    line = next(line for line in commands("docs/methods.md") if line.startswith("cheaplip train"))
    tiny = ["--model", "mlp:8", "--epochs", "2", "--probe", "0", "--search", "8", "--target", "0.1"]
    assert run_command([*shlex.split(line)[1:], *tiny]) == 0
    lam = json.loads(Path("runs/stability/metrics.json").read_text())["lam"]
    assert lam > 0.1  # the target is below what the network reaches, so λ has risen


def test_the_readme_fits_a_screen():
    assert PAGES["README.md"].count("\n") < 80


@needs_results
def test_the_readme_s_figures_are_those_of_the_results():
    pytest.importorskip("tyro", reason="needs the extra cli")
    from cheaplip.trained.compare import summarise

    files = [ROOT / "results" / name / "results.json" for name in ("mnist", "mnist-rivals", "scale-free")]
    found = {
        summary.name: summary.columns for summary in summarise([r for f in files for r in json.loads(f.read_text())])
    }
    costs = dict(re.findall(r"^\| ([\w+-]+) \| [\d.]+ \| ([\d.]+) \|$", PAGES["docs/results.md"], re.MULTILINE))
    shown = re.findall(r"^\| (.+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+)(?: ×)? \|$", PAGES["README.md"], re.MULTILINE)
    assert [name for name, *_ in shown] == list(TRAININGS)
    for name, test, attacked, cost in shown:
        method = TRAININGS[name]
        assert test == f"{100 * found[method]['test'][0]:.1f}"
        assert attacked == f"{100 * found[method]['autoattack@2.0'][0]:.1f}"
        assert float(cost) == round(float(costs[method]), 1)


@needs_results
def test_each_result_has_a_row():
    there = {path.name for path in (ROOT / "results").iterdir()} - {"README.md", "report.html", "demo", "reproduction"}
    there |= {f"reproduction/{path.name}" for path in (ROOT / "results" / "reproduction").iterdir()}
    assert there == set(RESULTS)


@needs_results
@pytest.mark.parametrize("result", RESULTS)
def test_a_result_says_how_it_was_made(result):
    pytest.importorskip("tyro", reason="needs the extra cli")
    from cheaplip.cli import _parse

    kept = ROOT / "results" / result / "command.json"
    of_result = [line for line in made_by(result) if f"--out results/{result.partition('/')[0]}" in line]
    assert of_result
    for line in of_result:
        program, *words = shlex.split(line)
        if program == "python":
            assert words[0].startswith("benchmarks/")
            assert (ROOT / words[0]).is_file()
            continue
        assert program == "cheaplip"
        command = _parse(words)
        assert not isinstance(command, int), line
        if kept.is_file():
            _, *words = shlex.split(json.loads(kept.read_text())["command"])
            assert replace(_parse(words), out=command.out) == command


def made_by(result: str) -> list[str]:
    """The commands of a result: in its row, or in the block under its name."""
    row = re.findall(r"`([^`]+)`", RESULTS[result])
    return row or [line for line in commands("results/README.md") if f"results/{result}/" in line]


def test_docstrings_become_markdown():
    for package in ("griffe", "latex2mathml"):
        pytest.importorskip(package, reason="needs the extra docs")
    rewritten = runpy.run_path(str(ROOT / "docs" / "docstrings.py"))["rewritten"]
    text = "Args:\n    low, high: as in :class:`Box`,\n        or (B, *shape).\n    x: one.\n\nExample:\n    >>> 1"
    entry = ": as in [`Box`][Box],\n        or (B, \\*shape).\n"
    assert rewritten(text) == f"Args:\n    low{entry}    high{entry}    x: one.\n\nExamples:\n    >>> 1"
    assert re.fullmatch(r"  <math .*<mfrac>.*</math>", rewritten(r"  .. math:: \frac{a}{b}"))
    assert "math" not in rewritten("plain ``code`` (B, \\*input)")


@pytest.mark.parametrize("module", [*PUBLIC, *(f"cheaplip.integrations.{name}" for name in ADAPTERS)])
def test_the_api_pages_are_complete(module):
    pytest.importorskip(ADAPTERS.get(module.rpartition(".")[2], "torch"), reason="needs the adapter's package")
    pages = "\n".join(text for page, text in PAGES.items() if page.startswith("docs/api/"))
    members = ", ".join(re.findall(r"members: \[(.+)\]", pages))
    shown = {*re.findall(r"^::: [\w.]*?(\w+)$", pages, flags=re.MULTILINE), *members.split(", ")}
    assert {*importlib.import_module(module).__all__} <= shown


@pytest.mark.parametrize(
    "name", ["MaxMin", "`Conv3d`", "`Hardshrink`", "`Softplus()`", "product of two values, gate, `GLU`"]
)
def test_the_table_of_layers_has_the_present_row(name):
    row = runpy.run_path(str(ROOT / "docs" / "layers.py"))["row"]
    assert f"| {' | '.join(row(name))} |\n" in PAGES["docs/layers.md"], "python docs/layers.py updates the page"


@pytest.mark.slow
def test_the_table_of_layers_is_that_of_the_present_bounds():
    filled = runpy.run_path(str(ROOT / "docs" / "layers.py"))["filled"]
    assert filled(PAGES["docs/layers.md"]) == PAGES["docs/layers.md"], "python docs/layers.py updates the page"


def test_the_table_of_layers_has_a_row_for_each_layer():
    layers = runpy.run_path(str(ROOT / "docs" / "layers.py"))["LAYERS"]
    found = [line.split(" | ")[0].removeprefix("| ") for line in PAGES["docs/layers.md"].splitlines() if "|" in line]
    assert [name for name in found if name in layers] == list(layers)
