import ast
import base64
import json
import math
import re
import shlex
import struct
import sys
import zlib
from pathlib import Path

import pytest
import torch

import cheaplip.report
from cheaplip.cli import _parse, run
from cheaplip.cli.options import command_line
from cheaplip.data import load
from cheaplip.report import ReportError, write_report
from cheaplip.report.headline import headline
from cheaplip.report.png import data_uri
from cheaplip.report.read import number, read_study
from cheaplip.report.table import columns, groups
from cheaplip.report.wording import attack_key, figure, spread
from cheaplip.runs.naming import run_name
from cheaplip.training import results

SCRIPT = "</script><script>window.hacked = true</script>"


def row(name, seed=0, **changes):
    """A row of results.json with every key of the design."""
    test, pgd, lower = {"plain": (0.98, 0.05, 34.0), "clip": (0.97, 0.68, 1.7)}.get(name, (0.975, 0.7, 8.5))
    drift = 0.01 * seed
    whole = {
        "name": name,
        "method": name,
        "target": 0.98 if name == "clip" else None,
        "accuracy": {"train": 0.98, "validation": 0.97, "test": test - drift},
        "robust": {"noise@1.0": 0.5, "pgd@1.0": pgd + 0.1, "pgd@2.0": pgd - drift, "pgd@3.0": pgd / 4},
        "robust_samples": {"pgd@2.0": 1000},
        "certified": {"0.5": 0.3, "1.0": 0.1} if name == "clip" else {},
        "lipschitz": {"lower": lower, "upper": 2 * lower, "upper_method": "spectral"},
        "lam": 0.4 if name == "clip" else None,
        "epochs": 3,
        "seconds_per_epoch": 1.5,
        "seed": seed,
    }
    return {**whole, **changes}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_run(folder, name, seed=0, shape=(1, 8, 8)):
    values = math.prod(shape)
    write(folder / "config.json", {"data": "mnist", "method": name, "target": 0.98, "seed": seed, "epochs": 3})
    epochs = [
        {
            "epoch": n,
            "loss": 2.0 / n**4,
            "train_accuracy": 1 - 0.5 / n,
            "validation_accuracy": 1 - 0.6 / n,
            "lower": 3.0,
        }
        | ({"lam": 0.1 * n, "largest": 2.5} if name == "clip" else {})
        for n in (1, 2, 3)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    pair = {
        "shape": list(shape),
        "low": 0.0,
        "high": 1.0,
        "u": [i / values for i in range(values)],
        "v": [i / values * 0.9 for i in range(values)],
        "distance": 0.5,
        "quotient": 3.4,
        "outputs": {"u": [2.0, 0.0], "v": [0.0, 2.0]},
    }
    write(folder / "report.json", {"witness": pair, "confusion": [[40, 2], [0, 58]]})


@pytest.fixture
def study(tmp_path):
    """A whole comparison: three methods, two seeds, all files."""
    names, seeds = ("plain", "clip", "adversarial"), (0, 1)
    write(tmp_path / "results.json", [row(name, seed) for seed in seeds for name in names])
    write(tmp_path / "command.json", {"command": "cheaplip compare mnist --out here"})
    for name in names:
        for seed in seeds:
            shape = (6,) if name == "adversarial" else (1, 8, 8)
            write_run(tmp_path / run_name(name, seed), name, seed, shape)
    return tmp_path


def own(path):
    """A page without the plotting library."""
    page = path.read_text(encoding="utf-8")
    parts = page.split("<script>")
    return "<script>".join(part for part in parts if "plotly.js v" not in part[:200])


def told(folder, rows):
    write(folder / "results.json", rows)
    found = read_study(folder)
    return headline(found, groups(found), columns(found))


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


def test_the_headline_is_a_sentence_about_clip_and_plain_training(study):
    found = headline(read_study(study), groups(read_study(study)), columns(read_study(study)))
    assert found.sentence == (
        "CLIP still gets 67.5\u202f% of MNIST test inputs right when each is attacked; plain training, 4.5\u202f%."
    )
    assert found.details == (
        "Left alone, they get 96.5\u202f% and 97.5\u202f% right.",
        "The attack is L2-PGD, which may move an input by up to 2 (L2); it was tried on 1,000 test inputs.",
        "Largest quotient found, output change per input change: 1.70 against 34.0.",
        "Not the best here: adversarial training holds 69.5\u202f%.",
    )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        pytest.param(
            [row("plain", robust={"pgd@1.0": 0.5}), row("clip", robust={"pgd@1.0": 0.4})],
            "CLIP does worse than plain training when each is attacked: "
            "it gets 40.0.% of the test inputs right, against 50.0.%.",
            id="clip-loses",
        ),
        pytest.param(
            [
                row("plain", robust={"pgd@1.0": 0.26}, robust_samples={"pgd@1.0": 50}),
                row("clip", robust={"pgd@1.0": 0.28}, robust_samples={"pgd@1.0": 50}),
            ],
            "No clear difference between CLIP and plain training when each is attacked: "
            "28.0.% and 26.0.% of the test inputs right.",
            id="few-inputs",
        ),
        pytest.param(
            [row("plain", robust={}), row("clip", robust={})],
            "Of 2 configurations on .+, plain training gets most test inputs right: 98.0.%.",
            id="no-attack",
        ),
        pytest.param(
            [
                row("no grace", method="clip", robust={"noise@1.0": 0.5}),
                row("full", method="clip", robust={"noise@1.0": 0.6}),
            ],
            "“full” still gets 60.0.% of the test inputs right under noise of σ = 1; “no grace”, 50.0.%.",
            id="without-plain",
        ),
        pytest.param(
            [row("clip")], "CLIP gets 97.0.% of the test inputs right, and 68.0.% when each is attacked.", id="one"
        ),
        pytest.param(
            [row("plain", accuracy={}, robust={}), row("clip", accuracy={}, robust={})],
            "2 configurations on .+, none with a test accuracy yet.",
            id="no-figures",
        ),
    ],
)
def test_the_headline_claims_no_more_than_the_figures(rows, sentence, tmp_path):
    assert re.fullmatch(sentence, told(tmp_path, rows).sentence)


def test_a_target_missed_on_validation_data_is_told(tmp_path):
    write(tmp_path / "metrics.json", row("clip", accuracy={"train": 0.99, "validation": 0.95, "test": 0.9}))
    write(tmp_path / "config.json", {"data": "mnist", "method": "clip", "target": 0.98, "target_on": "validation"})
    study = read_study(tmp_path)
    details = headline(study, groups(study), columns(study)).details
    assert any("on its validation data, 98.0\u202f% wanted." in detail for detail in details)


def test_a_missed_target_is_told(tmp_path):
    accuracy = {"train": 0.9, "test": 0.9}
    details = told(tmp_path, [row("plain"), row("clip", accuracy=accuracy)]).details
    assert details[-1] == (
        "CLIP missed its target: 90.0\u202f% on its training data, 98.0\u202f% wanted. "
        "Train longer, or lower the target."
    )


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
    assert "No history.jsonl of any run" in page
    assert "No pair to show" in page
    assert "No confusion matrix in" in page
    assert "No config.json of any run" in page
    assert "The command was not recorded" in page
    assert "NaN" not in page
    for content in re.findall(r'<script type="application/json">(.*?)</script>', page):
        json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in a figure"))


def test_a_seed_without_a_figure_is_counted_out(tmp_path):
    write(tmp_path / "results.json", [row("clip", 0), row("clip", 1, lipschitz={"lower": None})])
    assert "1.70<small>1 of 2 seeds</small>" in own(write_report(tmp_path))


def test_missing_figures_name_the_command_that_makes_them(tmp_path):
    write(tmp_path / "metrics.json", row("clip", robust={}, certified={}, lipschitz={"lower": 1.0}))
    assert "No certified radii; the weights are not in this folder, but where they are: run" in own(
        write_report(tmp_path)
    )
    (tmp_path / "model.safetensors").touch()
    page = own(write_report(tmp_path))
    assert f"No accuracy under noise or attack: run <code>cheaplip evaluate {tmp_path}</code>" in page
    assert f"No certified radii: run <code>cheaplip certify {tmp_path} --epsilon 0.5</code>" in page
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


def test_a_history_that_was_cut_off_is_told(tmp_path):
    write_run(tmp_path, "clip")
    write(tmp_path / "metrics.json", row("clip"))
    assert "history.jsonl ends at" not in own(write_report(tmp_path))
    history = tmp_path / "history.jsonl"
    history.write_text(history.read_text()[:-20])
    assert "history.jsonl ends at epoch 2 of 3: the others are missing." in own(write_report(tmp_path))


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
    allowed = {"cheaplip.report", "cheaplip.runs.naming", "jinja2", "plotly.offline"}
    for path in Path(cheaplip.report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                known = name in allowed or name.startswith("cheaplip.report.")
                assert known or name.partition(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_a_picture_is_a_png_of_its_pixels():
    pixels = [[(0, 1, 2), (255, 254, 253)]]
    content = base64.b64decode(data_uri(pixels).removeprefix("data:image/png;base64,"))
    assert struct.unpack(">II", content[16:24]) == (2, 1)
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    assert zlib.decompress(content[start + 4 : start + 4 + length]) == bytes([0, 0, 1, 2, 255, 254, 253])
    assert content.endswith(struct.pack(">I", zlib.crc32(b"IEND")))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0633, "0.0633"),
        (1.67, "1.67"),
        (33.8, "33.8"),
        (0.85, "0.850"),
        (64.76, "64.8"),
        (338.4, "338"),
        (12987.4, "12987"),
        (2.46e-4, "2.46·10⁻⁴"),
        (-1.5, "-1.50"),
        (3e5, "3.00·10⁵"),
    ],
)
def test_three_digits(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "mean", "text"),
    [
        (0.235, "1.49", "0.23"),
        (0.00603, "0.844", "0.006"),
        (0.0001, "1.49", "0.0001"),
        (0.0, "1.49", "0.00"),
        (1.1e-5, "2.46·10⁻⁴", "1.10·10⁻⁵"),
        (0.007, "67.5\u202f%", "0.7\u202f%"),
        (4.2, "338", "4"),
    ],
)
def test_a_spread_is_as_fine_as_its_mean(value, mean, text):
    assert spread(value, mean) == text


@pytest.mark.parametrize("value", [None, True, "1", math.nan, math.inf, -math.inf, 10**400, [1]])
def test_what_is_no_finite_number(value):
    assert number(value) is None


@pytest.mark.parametrize("key", ["pgd", "pgd@", "pgd@x", "pgd@-1", "pgd@nan", "pgd@inf", ""])
def test_what_is_no_attack(key):
    assert attack_key(key) is None


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


TINY = ["--epochs", "1", "--model", "mlp:8", "--activation", "relu", "--probe", "2"]


def test_training_ends_with_a_report(tmp_path, capsys):
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *TINY]) == 0
    assert f"report: {tmp_path / 'run' / 'report.html'}" in capsys.readouterr().err
    page = own(tmp_path / "run" / "report.html")
    assert re.search(
        r"<pre.*>cheaplip train digits --model mlp:8 --activation relu --epochs 1 --probe 2 --out .+</pre>", page
    )
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
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *TINY]) == 0
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
def test_new_figures_renew_the_page(command, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(["train", "digits", "--out", str(folder), *TINY]) == 0
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


def test_a_page_that_cannot_be_renewed_is_said_to_be_old(tmp_path, capsys, monkeypatch):
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *TINY]) == 0
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert run(["bracket", str(tmp_path / "run"), "--seconds", "0"]) == 0
    assert "the report is older than these figures: a report needs plotly" in capsys.readouterr().err


ORDER = "[...document.querySelectorAll('.figures tbody th')].map((cell) => cell.dataset.value)"


@pytest.mark.parametrize("dark", [False, True], ids=["day", "night"])
def test_a_browser_draws_every_plot(dark, study, tab):
    tab.open(write_report(study), dark=dark)
    assert tab.evaluate("document.querySelectorAll('.plot').length") == 9
    assert tab.evaluate("document.querySelectorAll('.plot.failed').length") == 0
    lines = "[...document.querySelectorAll('.plot')].map((plot) => plot.querySelectorAll('.trace').length)"
    assert min(tab.evaluate(lines)) >= 1
    assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth === 8)")


def test_every_figure_is_one_that_the_library_knows(study, tab):
    tab.open(write_report(study))
    faults = "[...document.querySelectorAll('.plot')].flatMap((plot) => Plotly.validate(plot.data, plot.layout) ?? [])"
    wrong = f"{faults}.filter((fault) => fault.code !== 'unused').map((fault) => fault.msg)"
    assert tab.evaluate(wrong) == []


def test_a_heading_sorts_the_table(study, tab):
    tab.open(write_report(study))
    heading = "document.querySelectorAll('.figures thead button')[{}]"
    assert tab.evaluate(ORDER) == ["plain", "clip", "adversarial"]
    tab.evaluate(heading.format(0) + ".click()")
    assert tab.evaluate(ORDER) == ["adversarial", "clip", "plain"]
    tab.evaluate(heading.format(1) + ".click()")  # test accuracy: the best first
    assert tab.evaluate(ORDER) == ["plain", "adversarial", "clip"]
    tab.evaluate(heading.format(1) + ".click()")
    assert tab.evaluate(ORDER) == ["clip", "adversarial", "plain"]
    sorts = "[...document.querySelectorAll('.figures thead th')].map((cell) => cell.ariaSort)"
    assert tab.evaluate(sorts)[:3] == ["none", "ascending", "none"]


def test_gaps_stay_last_in_either_order(tmp_path, tab):
    rows = [row("a", lam=None), row("b", lam=2.0), row("c", lam=10.0)]
    write(tmp_path / "results.json", rows)
    tab.open(write_report(tmp_path))
    button = "[...document.querySelectorAll('.figures thead button')].find((one) => one.innerText.startsWith('λ'))"
    tab.evaluate(f"{button}.click()")
    assert tab.evaluate(ORDER) == ["c", "b", "a"]
    tab.evaluate(f"{button}.click()")
    assert tab.evaluate(ORDER) == ["b", "c", "a"]


def test_a_phone_never_scrolls_sideways(study, tab):
    tab.open(write_report(study), width=390, height=844)
    assert tab.evaluate("innerWidth") == 390
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelector('.figures').offsetWidth") > 390  # scrolls in a box of its own
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every((plot) => plot.offsetWidth <= 390)")


def test_plots_follow_day_and_night(study, tab):
    tab.open(write_report(study))
    ink = "document.querySelector('.plot').layout.font.color"
    day = tab.evaluate(ink)
    tab.scheme(dark=True)
    tab.wait(f"{ink} !== '{day}'")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 21, 20)"


def test_it_prints_by_day(study, tab):
    tab.open(write_report(study), dark=True)
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"]).startswith(b"%PDF")


def test_hostile_names_stay_text(tmp_path, tab):
    link = "<a href='javascript:window.hacked=true'>x</a>"
    write(tmp_path / "results.json", [row(SCRIPT), row("<img src=x onerror='window.hacked = true'>"), row(link)])
    tab.open(write_report(tmp_path))
    assert tab.evaluate("window.hacked === undefined")
    assert tab.evaluate(ORDER)[0] == SCRIPT
    assert tab.evaluate("document.querySelectorAll('svg a, img[src=x]').length") == 0


def test_bare_rows_open_without_a_complaint(tmp_path, tab):
    write(tmp_path / "results.json", [{"name": "old"}, row("clip", accuracy={"test": None})])
    tab.open(write_report(tmp_path), width=390)
    assert "not measured" in tab.evaluate("document.body.innerText")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_the_index_leads_to_the_pages(tmp_path, tab):
    write(tmp_path / "a & b" / "results.json", [row("plain"), row("clip")])
    tab.open(write_report(tmp_path), width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    with tab.navigation():
        tab.evaluate("document.querySelector('.entries a').click()")
    tab.wait("document.querySelectorAll('.plot[data-drawn]').length > 0")
