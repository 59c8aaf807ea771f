"""The pages of the paper's experiments: its figures beside ours, checks, panels and pictures."""

import json
import math
import re

import pytest

from cheaplip.report import write_report
from report_folders import own, write, write_run

NUMBERS = {"train": 0.95, "test": 0.9, "noise@1.0": 0.7, "pgd-sign@2.0": 0.3, "lam": 0.25}


def row(name, method, variant=None, *, target=None, rule="validation", weak=0.5, strong=0.2, **changes):
    whole = {
        "name": name if rule == "validation" else f"{name}, best on test",
        "method": method,
        "target": target,
        "rule": rule,
        "epoch": 2,
        "accuracy": {"train": 0.93, "validation": 0.92, "test": 0.91},
        "robust": {"noise@1.0": weak, "pgd-sign@2.0": weak, "pgd@2.0": strong, "autoattack@2.0": strong},
        "robust_samples": {"autoattack@2.0": 200},
        "certified": {"0.5": 0.6} if method == "certified" else {},
        "lipschitz": {"lower": 3.0, "upper": 4.0},
        "lam": 0.5 if method == "clip" else None,
        "epochs": 3,
        "seconds_per_epoch": 1.0,
        "seed": 0,
        "variant": variant,
        "paper": NUMBERS,
    }
    return {**whole, **changes}


def both(*arguments, **options):
    return [row(*arguments, **options, rule=rule) for rule in ("validation", "test")]


def table_rows(**ours):
    return [
        *both("Standard", "plain", weak=0.4, strong=0.05),
        *both("WeightReg 90", "weight", target=0.9, weak=0.45, strong=0.1),
        *both("CLIP 90, the paper's algorithm", "clip", "paper", target=0.9, weak=0.35, strong=0.15),
        *both("CLIP 90, ours", "clip", "ours", target=0.9, **{"weak": 0.8, "strong": 0.5, **ours}),
        *both("Certified", "certified", weak=0.7, strong=0.6),
    ]


def path_rows(holds=True):
    steps = [
        {
            "name": f"digits, λ = {lam}",
            "method": "clip",
            "seed": 0,
            "lam": lam,
            "loss": lam,
            "lipschitz": {"lower": 1 / lam},
            "barycentre": 0.5,
        }
        for lam in (0.01, 0.1, 1.0)
    ]
    check = {"name": "digits: loss non-decreasing in λ", "check": True, "value": 0.007, "limit": "at most 0.01"}
    free = {**steps[0], "name": "plain training", "method": "plain", "lam": 0.0, "smallest_constant": 3.5}
    return [free, *steps, {**check, "holds": True}, {**check, "name": "digits: the constant", "holds": holds}]


def curve_rows():
    x = [-4.0, 0.0, 4.0]
    return [
        {
            "name": f"λ = {lam}",
            "method": "clip" if lam else "plain",
            "seed": 0,
            "pairs": "paper",
            "lam": lam,
            "loss": 0.01,
            "error": 0.02 + lam,
            "lipschitz": {"lower": 0.5 / (1 + lam)},
            "steepest": {"at": -3.5, "x": [-3.55, -3.45], "y": [0.3, 0.25]},
            "curve": {"x": x, "y": [0.5, 0.0, 0.5], "truth": [0.5, 0.0, 0.5]},
            "samples": {"x": [-3.9, 3.9], "y": [0.45, 0.47]},
        }
        for lam in (0.0, 10.0)
    ]


def pair_rows():
    def image(name, sure):
        return {"class": name, "confidence": sure, "pixels": [[0.0, 1.0], [0.5, 0.2]]}

    return [
        {
            "name": f"confidence of the {kind}",
            "method": "plain",
            "seed": 0,
            "confidence": kind,
            "before": [image("coat", 0.99), image("bag", 0.95)],
            "after": [image("bag", 0.1), image("coat", 0.2)],
            "quotients": [2.5, 7.0],
            "steps": 12,
            "step_size": 0.3,
            "holds": holds,
        }
        for kind, holds in (("sigmoid", True), ("softmax", False))
    ]


ROWS = {"table1-mnist": table_rows(), "path": path_rows(), "regression": curve_rows(), "figure1": pair_rows()}


def experiment(folder, name, rows=None, *, quick=False):
    write(folder / "results.json", ROWS[name] if rows is None else rows)
    write(folder / "experiment.json", {"experiment": name, "quick": quick, "versions": {"torch": "2.13"}})
    return folder


def test_published_figures_stand_beside_ours_by_either_rule(tmp_path):
    text = own(write_report(experiment(tmp_path, "table1-mnist")))
    headings = re.findall(r'<h2 id="rule-[a-z]+">([^<]+)<', text)
    assert headings == ["Checkpoint chosen on validation data", "Checkpoint chosen on test data, the paper’s rule"]
    assert "91.0\u202f%<small>paper 90.0\u202f%</small>" in text
    assert "0.500<small>paper 0.250</small>" in text
    assert "–</abbr><small>paper 0.250</small>" in text  # plain training has no λ, the paper's row says 0
    for table in re.findall(r'<table class="figures">.*?</table>', text, re.DOTALL):
        names = re.findall(r'<th scope="row" data-value="([^"]+)"', table)
        assert names == [
            "Standard",
            "WeightReg 90",
            "CLIP 90, the paper&#39;s algorithm",
            "CLIP 90, ours",
            "Certified",
        ]
    assert "Made with torch 2.13." in text
    assert f"cheaplip reproduce table1-mnist --out {tmp_path.parent}</pre>" in text


def test_the_headline_sets_ours_beside_the_published_row(tmp_path):
    text = own(write_report(experiment(tmp_path, "table1-mnist", quick=True)))
    assert (
        "<h1>Under the paper’s own attack, our CLIP with the target 90.0\u202f% gets 80.0\u202f% of the MNIST test "
        "inputs right; the paper’s CLIP with the same target gets 30.0\u202f%.</h1>"
    ) in text
    assert "under AutoAttack the same network gets 50.0\u202f% of 200 inputs right." in text
    assert "Above weight regularisation at each target, under each of noise, L2-PGD, AutoAttack." in text
    assert "This is the quick version" in text


def test_where_ours_is_not_above_is_said(tmp_path):
    text = own(write_report(experiment(tmp_path, "table1-mnist", table_rows(weak=0.44, strong=0.1))))
    assert "Not 15 points above the published row: CLIP 90, ours (44.0\u202f%, published 30.0\u202f%)." in text
    assert "Not above weight regularisation with the same target: noise, CLIP 90, ours (44.0\u202f%" in text
    assert "L2-PGD, CLIP 90, ours (10.0\u202f% against 10.0\u202f%)" in text


def test_a_row_finds_the_training_that_made_it(tmp_path):
    experiment(tmp_path, "table1-mnist")
    write_run(tmp_path / "clip-90-ours-seed0", "clip")
    write(tmp_path / "clip-90-ours-seed0" / "rows.json", {"rows": both("CLIP 90, ours", "clip", "ours")})
    measured = {"robust": {"pgd@4.0": 0.125}}
    write(tmp_path / "clip-90-ours-seed0" / "best-on-validation" / "metrics.json", measured)
    write(tmp_path / "clip-90-ours-seed0" / "metrics.json", {"robust": {"pgd@8.0": 0.5}})
    text = own(write_report(tmp_path))
    assert text.count('src="data:image/png;base64,') == 3
    assert "Accuracy in training" in text
    assert "12.5\u202f%" in text  # attacked later, in the folder of the checkpoint
    assert "ε = 8" not in text  # of the network after the last epoch, which is not the row's


def test_checks_of_the_path_are_numbers(tmp_path):
    text = own(write_report(experiment(tmp_path, "path")))
    assert "<h1>The networks behave as the theory says: all 2 checks of Propositions 2 to 4 hold.</h1>" in text
    assert re.search(r'<td data-value="0.007">0.007</td>\s*<td>at most 0.01</td>\s*<td data-value="1.0">yes</td>', text)
    assert "plain training 100" in text
    assert "smallest constant that fits the data 3.50" in text
    text = own(write_report(experiment(tmp_path, "path", path_rows(holds=False))))
    assert "<h1>1 of 2 checks of Propositions 2 to 4 hold; 1 fail.</h1>" in text


def test_the_panels_of_the_regression_draw_the_steepest_pair(tmp_path):
    text = own(write_report(experiment(tmp_path, "regression")))
    assert "becomes flatter: its steepest slope is 0.0455 at λ = 10, and 0.500 without penalty.</h1>" in text
    assert "Nearest to the true function, also between the samples: λ = 0.0, with an error of 0.02." in text
    assert text.count("The steepest pair is at x = -3.50, with a slope of -0.500.") == 2
    figures = [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert [[trace["name"] for trace in figure["data"]] for figure in figures] == [
        ["truth", "samples, with noise", "network", "line through the steepest pair"]
    ] * 2
    x, y = figures[0]["data"][3]["x"], figures[0]["data"][3]["y"]
    assert (y[2] - y[0]) / (x[2] - x[0]) == pytest.approx(-0.5)


def test_the_pair_is_shown_before_and_after(tmp_path):
    text = own(write_report(experiment(tmp_path, "figure1")))
    assert "found with sigmoid confidences, not with softmax confidences.</h1>" in text
    assert text.count('src="data:image/png;base64,') == 8
    assert 'alt="image before the ascent, taken for coat, 99.0\u202f% by the sigmoid"' in text
    assert "no, the nearest found" in text
    text = own(write_report(experiment(tmp_path, "figure1", [{**each, "holds": False} for each in pair_rows()])))
    assert "<h1>No pair of images was found" in text


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize(
    "old",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"name": "old", "seed": [1], "rule": ["x"], "variant": {}, "paper": 3}, id="other-types"),
        pytest.param(
            {
                "name": "nan",
                "lam": math.nan,
                "loss": math.inf,
                "lipschitz": {"lower": math.nan},
                "curve": {"x": [1.0], "y": [None]},
                "before": [{"pixels": [[None]]}, 3],
                "after": "x",
                "check": True,
                "value": math.nan,
            },
            id="nan",
        ),
    ],
)
def test_rows_of_an_older_version_leave_gaps_and_no_blank_page(old, name, tmp_path):
    alone = own(write_report(experiment(tmp_path / "alone", name, [old])))
    assert re.search(r"<h1>[^<]{20,}</h1>", alone)
    assert "–" in alone or 'class="gap"' in alone
    beside = own(write_report(experiment(tmp_path / "beside", name, [*ROWS[name], old])))
    assert re.search(r"<h1>[^<]{20,}</h1>", beside)
    assert ("row " if old == {} else old["name"]) in beside


def test_an_unreadable_experiment_is_reported_and_the_rows_are_shown(tmp_path):
    experiment(tmp_path, "path")
    (tmp_path / "experiment.json").write_text("{")
    text = own(write_report(tmp_path))
    assert "Cannot read" in text
    assert "plain training" in text


def test_the_index_tells_each_experiment_in_a_sentence(tmp_path):
    for name in ROWS:
        experiment(tmp_path / name, name, quick=True)
    text = own(write_report(tmp_path))
    assert "all 2 checks" in text
    assert "10 rows, quick version" in text


@pytest.mark.parametrize("name", list(ROWS))
def test_a_browser_draws_the_experiment(name, tmp_path, tab):
    tab.open(write_report(experiment(tmp_path, name)), width=390, height=844)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelectorAll('.plot.failed').length") == 0
    plots = "[...document.querySelectorAll('.plot')]"
    assert min(tab.evaluate(f"{plots}.map((plot) => plot.querySelectorAll('.trace').length)"), default=1) >= 1
    faults = f"{plots}.flatMap((plot) => Plotly.validate(plot.data, plot.layout) ?? [])"
    assert tab.evaluate(f"{faults}.filter((fault) => fault.code !== 'unused').map((fault) => fault.msg)") == []
    assert tab.evaluate(f"{plots}.every((plot) => plot.layout.xaxis.title.text && plot.layout.yaxis.title.text)")
    last = "document.querySelector('.figures thead th:last-child')"
    tab.evaluate(f"{last}.querySelector('button').click()")
    assert tab.evaluate(f"{last}.ariaSort") == "ascending"
