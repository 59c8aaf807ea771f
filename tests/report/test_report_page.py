"""The page and the index: what they hold, what they say is missing, and what is refused."""

import ast
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

import cheaplip.report
from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.report import ReportError, write_report
from cheaplip.report.plots.frontier import frontier_curves
from cheaplip.report.read import read_study
from cheaplip.report.table import columns, groups
from cheaplip.training import results
from report_folders import SCRIPT, own, row, write, write_run


def test_the_page_is_one_file_without_addresses_and_under_6_mb(study):
    path = write_report(study)
    assert path == study / "report.html"
    assert path.stat().st_size < 6e6
    assert "plotly.js v" in path.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\s\"']*", own(path)) == []
    assert re.findall(r"""(?:src|href)=["'](?!data:)[^"']*""", own(path)) == []
    assert "default-src 'none'" in own(path)


def test_the_page_holds_every_part(study):
    page = own(write_report(study))
    for part in ("comparison", "robustness", "training", "pairs", "confusions", "configuration"):
        assert f'<h2 id="{part}">' in page
    assert "cheaplip compare mnist --out here" in page
    assert "target 98 %" in page
    assert page.count('src="data:image/png;base64,') == 6
    assert "class 0, 88.1" in page
    assert "class 1, 88.1" in page
    assert 'class="gap"' not in page.replace('<noscript><p class="gap">', "")
    assert 'class="gaps"' not in page


def test_every_plot_says_what_it_shows_and_names_its_axes(study):
    page = own(write_report(study))
    plots = re.findall(r'role="img" aria-label="([^"]+)"><script type="application/json">(.*?)</script>', page)
    assert len(plots) == page.count('class="plot') - page.count('class="plotted') == 9
    for alt, content in plots:
        layout = json.loads(content)["layout"]
        assert len(alt) > 40
        assert layout["xaxis"]["title"]["text"]
        assert layout["yaxis"]["title"]["text"]


@pytest.mark.parametrize(("name", "labelled"), [("clip", True), ("CLIP 90, the authors' setting", False)])
def test_lines_are_labelled_where_the_names_leave_room(name, labelled, tmp_path):
    write(tmp_path / "results.json", [row(name)])
    plots = re.findall(r'<script type="application/json">(.*?)</script>', own(write_report(tmp_path)))
    layouts = [json.loads(plot)["layout"] for plot in plots]
    (under_attack,) = [layout for layout in layouts if layout["xaxis"]["title"]["text"].startswith("ε")]
    assert bool(under_attack.get("annotations")) == labelled


def test_seeds_are_summarised(study):
    found = read_study(study)
    page = own(write_report(study))
    assert [group.name for group in groups(found)] == ["plain", "clip", "adversarial"]
    assert "67.5\u202f%<small>± 0.7\u202f%</small>" in page


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([{"name": "clip"}], id="a-name-alone"),
        pytest.param([{}], id="nothing"),
        pytest.param(
            [row("clip", accuracy=None, robust=[], certified=3, lipschitz="x")], id="sections-of-another-type"
        ),
        pytest.param([row("clip", accuracy={"test": math.nan}, lam=math.inf), row("plain")], id="nan-and-inf"),
        pytest.param([{**row("clip", accuracy={"test": 10**400}, target="high"), "seed": [1]}], id="absurd-values"),
        pytest.param([row("clip", robust={"pgd": 0.1, "pgd@x": 1, "new@1": 0.3, "pgd@nan": 0})], id="unknown-attacks"),
        pytest.param([row("clip", certified={"0.5": 0.3}, robust={"noise@1.0": 0.2})], id="certified-without-attack"),
        pytest.param([row(f"net {i}") for i in range(20)], id="twenty"),
    ],
)
def test_rows_with_gaps_make_a_page_with_gaps(rows, tmp_path):
    write(tmp_path / "results.json", rows)
    page = own(write_report(tmp_path))
    assert "<h1>" in page
    assert "No run has a history.jsonl" in page
    assert "There is no pair to show" in page
    assert "No confusion matrix in" in page
    assert "No run has a config.json" in page
    assert "The command was not recorded" in page
    assert "NaN" not in page
    for content in re.findall(r'<script type="application/json">(.*?)</script>', page):
        json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in a figure"))


def test_a_seed_without_a_figure_is_counted_out(tmp_path):
    write(tmp_path / "results.json", [row("clip", 0), row("clip", 1, lipschitz={"lower": None})])
    assert "1.70<small>1 of 2 seeds</small>" in own(write_report(tmp_path))


def test_missing_figures_name_the_command_that_makes_them(tmp_path):
    write(tmp_path / "metrics.json", row("clip", robust={}, certified={}, lipschitz={"lower": 1.0}))
    assert (
        "No certified radii (the weights are not in this folder; RUN stands for the folder that holds them): run"
        in own(write_report(tmp_path))
    )
    (tmp_path / "model.safetensors").touch()
    page = own(write_report(tmp_path))
    assert f"No accuracy under noise or attack: run <code>cheaplip evaluate {tmp_path}</code>" in page
    assert f"No certified radii: run <code>cheaplip certify {tmp_path}</code>" in page
    assert f"No upper bound of the Lipschitz constant: run <code>cheaplip bracket {tmp_path}</code>" in page


def test_what_evaluate_added_later_joins_the_row(study):
    write(study / "clip-seed0" / "metrics.json", {"robust": {"autoattack@2.0": 0.51, "pgd@2.0": 0.99}})
    found = read_study(study)
    robust = next(run for run in found.runs if run.folder == "clip-seed0").row["robust"]
    assert robust["autoattack@2.0"] == 0.51
    assert robust["pgd@2.0"] == 0.68


@pytest.mark.parametrize(
    ("name", "content", "gap"),
    [
        pytest.param("report.json", "{", "Cannot read .+report.json", id="broken"),
        pytest.param("report.json", "[]", "report.json is left out: expected a JSON object, got list", id="list"),
        pytest.param("report.json", '{"confusion": [[1, 2]]}', "is not a square of counts", id="confusion"),
        pytest.param("report.json", '{"confusion": [[1, -2], [0, 3]]}', "is not a square of counts", id="negative"),
        pytest.param(
            "report.json", '{"witness": {"shape": [3], "u": [1], "v": [2]}}', "shape and values disagree", id="shape"
        ),
        pytest.param("report.json", '{"witness": {"shape": [9]}}', "too large to be kept for a report", id="too-large"),
        pytest.param(
            "history.jsonl", '{"epoch": 1}\n{\n{"epoch": 3}\n', "Line 2 of .+history.jsonl is broken", id="history"
        ),
        pytest.param("config.json", "\xff", "Cannot read .+config.json", id="not-text"),
    ],
)
def test_a_broken_file_of_a_run_is_a_gap_in_the_page(name, content, gap, study):
    (study / "clip-seed0" / name).write_bytes(content.encode("latin-1"))
    assert re.search(gap, own(write_report(study)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({}, "nothing to report in", id="empty"),
        pytest.param({"thesis.tex": "years of work"}, "nothing to report in", id="foreign"),
        pytest.param({"results.json": "[{"}, "cannot read .+results.json", id="broken"),
        pytest.param({"results.json": "{}"}, "results.json: expected a list of rows", id="object"),
        pytest.param({"results.json": "[1]"}, "results.json: expected a list of rows", id="numbers"),
        pytest.param({"results.json": "[]"}, "results.json: no rows yet", id="no-rows"),
        pytest.param({"results.json": "[" * 100_000}, "cannot read .+results.json", id="deep"),
        pytest.param({"metrics.json": "[]"}, "metrics.json: expected a JSON object, got list", id="list"),
        pytest.param({"one/results.json": "?"}, "cannot read .+one/results.json", id="all-below-broken"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(files, message, tmp_path, capsys):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert run(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ReportError, match=r"no folder .+nowhere: expected one made by cheaplip train"):
        write_report(tmp_path / "nowhere")


def test_several_results_get_an_index_that_links_them(study, tmp_path):
    top = tmp_path / "top"
    for name in ("a & b", "deep/er"):
        write(top / name / "results.json", [row("plain"), row("clip")])
    write_run(top / "unfinished", "clip")
    (top / "broken").mkdir()
    (top / "broken" / "metrics.json").write_text("?")
    page = own(write_report(top))
    links = re.findall(r'href="([^"]+\.html)"', page)
    assert links == ["a%20%26%20b/report.html", "deep/er/report.html", "unfinished/report.html"]
    assert (top / "a & b" / "report.html").is_file()
    assert "No page: cannot read" in page
    assert "CLIP on MNIST: no test accuracy yet." in page


@pytest.mark.parametrize(
    ("shape", "images", "bars"),
    [
        pytest.param((8, 8), 3, False, id="without-channels"),
        pytest.param((3, 4, 5), 3, False, id="colour"),
        pytest.param((2, 3), 0, True, id="too-small"),
        pytest.param((2, 8, 8), 0, True, id="two-channels"),
        pytest.param((40,), 0, True, id="table"),
    ],
)
def test_what_looks_like_an_image_is_shown_as_one(shape, images, bars, tmp_path):
    write_run(tmp_path, "clip", shape=shape)
    page = own(write_report(tmp_path))
    assert page.count('src="data:image/png;base64,') == images
    assert ("Both inputs and their difference" in page) == bars


def test_a_large_pair_is_left_out_of_the_exhibits(monkeypatch):
    data = load("digits")
    u, v = data.train.x[0], data.train.x[1]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert len(results.report_content(model, data, (u, v), 1.0)["witness"]["u"]) == 64
    monkeypatch.setattr(results, "_MOST_VALUES", 63)
    pair = results.report_content(model, data, (u, v), 1.0)["witness"]
    assert "u" not in pair
    assert pair["distance"] == pytest.approx(float((u - v).norm()))


def test_a_history_that_was_cut_off_is_reported(tmp_path):
    write_run(tmp_path, "clip")
    write(tmp_path / "metrics.json", row("clip"))
    assert "history.jsonl ends at" not in own(write_report(tmp_path))
    history = tmp_path / "history.jsonl"
    history.write_text(history.read_text()[:-20])
    assert "history.jsonl ends at epoch 2 of 3: the other epochs are missing." in own(write_report(tmp_path))


def test_an_unfinished_run_shows_its_training(tmp_path):
    write_run(tmp_path, "clip")
    page = own(write_report(tmp_path))
    assert "No metrics.json: the run has not finished" in page
    assert "Accuracy in training" in page


def test_names_cannot_break_out_of_the_page(tmp_path):
    write(tmp_path / "results.json", [row(SCRIPT), row("<img src=x onerror=alert(1)>")])
    page = own(write_report(tmp_path))
    assert SCRIPT not in page
    assert "<img src=x" not in page


def test_the_report_never_sees_a_model():
    allowed = {"cheaplip.report", "jinja2", "plotly.offline"} | {
        f"cheaplip.runs.{name}" for name in ("naming", "numbers", "words")
    }
    for path in Path(cheaplip.report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                known = name in allowed or name.startswith("cheaplip.report.")
                assert known or name.partition(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_labels_of_points_that_lie_on_each_other_are_joined(tmp_path):
    points = {"clip 0 %": (0.0, 0.5, 2.0), "clip 1 %": (0.01, 0.501, 2.01), "clip 2 %": (0.02, 0.9, 1.0)}
    rows = [
        row(name, method="clip", give_up=give_up, robust={"pgd@1.0": robust}, lipschitz={"lower": lower})
        for name, (give_up, robust, lower) in points.items()
    ]
    rows.append(row("plain", robust={"pgd@1.0": 0.2}, accuracy={"test": 0.5}, lipschitz={"lower": 9.0}))
    write(tmp_path / "results.json", rows)
    found = read_study(tmp_path)
    shown = columns(found)
    attack = next(column for column in shown if column.attack)
    for plot in frontier_curves(groups(found), shown, attack, shown[0], found.words):
        assert plot.data[0]["text"] == ["0\u202f%, 1\u202f%", "", "2\u202f%"]
        assert plot.data[1]["text"] == ["plain"]
