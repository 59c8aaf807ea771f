"""The page of a regression: errors with their units, and what is missing, with the reason."""

import json
import re

import pytest

from cheaplip.report import write_report
from cheaplip.report.read import read_study
from cheaplip.report.sentences.headline import headline
from cheaplip.report.table import columns, groups


def row(name, test, pgd, seed=0, **changes):
    whole = {
        "name": name,
        "method": name,
        "target": 20.0 if name == "clip" else None,
        "rmse": {"train": 19.0, "validation": 23.0, "test": test},
        "mae": {"train": 15.0, "validation": 18.0, "test": 0.8 * test},
        "robust": {"noise@0.1": test + 1} | ({} if pgd is None else {"pgd@0.2": pgd}),
        "robust_samples": {},
        "certified": {},
        "lipschitz": {"lower": test},
        "lam": 0.1 if name == "clip" else None,
        "seconds_per_epoch": 1.0,
        "seed": seed,
    }
    return {**whole, **changes}


@pytest.fixture
def study(tmp_path):
    rows = [row("plain", 24.0, 90.0), row("clip", 25.0, 40.0)]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    for told in rows:
        folder = tmp_path / f"{told['name']}-seed0"
        folder.mkdir()
        (folder / "config.json").write_text(
            json.dumps({"data": "houses.csv", "label": "price", "task": "regression", "method": told["name"]})
        )
        epochs = [{"epoch": e, "loss": 1 / e, "train_rmse": 40 / e, "validation_rmse": 50 / e} for e in (1, 2, 3)]
        (folder / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
        pair = {
            "shape": [3],
            "u": [0, 0, 0],
            "v": [0, 0, 1],
            "outputs": {"u": [12.5], "v": [37.5]},
            "distance": 1.0,
            "quotient": 25.0,
        }
        shown = {"witness": pair, "answers": {"label": [[1.0, 2.0]], "prediction": [[1.5, 2.5]]}}
        (folder / "report.json").write_text(json.dumps(shown))
    return tmp_path


def told(folder):
    found = read_study(folder)
    return headline(found, groups(found), columns(found))


def test_the_headline_compares_errors_in_the_labels_units(study):
    said = told(study)
    assert (
        said.sentence
        == "Under L2-PGD of up to 0.2, CLIP is off by only 40.0 in price; plain training is off by 90.0 in price."
    )
    assert "On the unchanged inputs they are off by 25.0 in price and 24.0 in price." in said.details


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([row("plain", 24.0, 30.0), row("clip", 25.0, 60.0)], "CLIP does worse: it is off by 60.0; plain training is"),
        ([row("plain", 24.0, 60.0), row("clip", 25.0, 60.5)], "No clear difference between CLIP and plain training "),
        ([row("clip", 25.0, 60.0)], "CLIP is off by 25.0 on test inputs of houses (RMSE), and by 60.0 under L2-PGD"),
        ([row("clip", 25.0, None)], "CLIP is off by 25.0 on test inputs of houses (RMSE), and by 26.0 under noise of"),
        ([row("clip", 25.0, None, robust={})], "CLIP is off by 25.0 on test inputs of houses (RMSE)."),
    ],
)
def test_the_headline_claims_no_more_than_the_figures(rows, sentence, tmp_path):
    folder = tmp_path / "houses"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(rows))
    assert sentence in told(folder).sentence


def test_a_missed_target_is_reported(tmp_path):
    missed = row("clip", 25.0, 60.0, rmse={"train": 31.0, "validation": 32.0, "test": 33.0})
    (tmp_path / "results.json").write_text(json.dumps([missed]))
    assert "CLIP missed its target: on training data it is off by 31.0 instead of 20.0." in told(tmp_path).details


def test_a_target_on_validation_data_is_reported_and_drawn_there(study):
    config = study / "clip-seed0" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_on": "validation"}))
    assert (
        "CLIP missed its target: on validation data it is off by 23.0 in price instead of 20.0 in price."
        in " ".join(told(study).details)
    )
    page = write_report(study).read_text()
    plots = re.findall(r"Line plot over epochs, (RMSE[^:]*):([^\"]*)", page[: page.index("<script>")])
    assert [(title, "target 20" in text) for title, text in plots] == [
        ("RMSE in training", False),
        ("RMSE on validation data", True),
    ]
    found = read_study(study)
    assert [column.path for column in columns(found)][1:3] == [("rmse", "train"), ("rmse", "validation")]


def test_the_page_shows_errors_and_says_what_is_missing_and_why(study):
    page = write_report(study).read_text()
    text = page[: page.index("<script>")]
    assert "RMSE, price" in text
    assert "MAE, price" in text
    assert "accuracy (%)" not in text
    assert "Errors are in the label’s units (price)." in text
    assert "Predictions against labels" in text
    assert "Confusion matrix" not in text
    assert "No accuracies, no confusion matrix and no AutoAttack: the labels are numbers, not classes." in text
    assert "No certified intervals" in text
    assert "u: 12.5 in price; v: 37.5 in price." in text
    assert "target 20<" in text
    titles = re.findall(r"Line plot over epochs, ([^:]*):", text)
    assert titles == ["RMSE in training", "RMSE on validation data", "Loss"]


def test_the_best_error_is_the_smallest(study):
    page = write_report(study).read_text()
    assert re.search(r'class="best">24\.0<', page)
    assert re.search(r'class="best">40\.0<', page)
