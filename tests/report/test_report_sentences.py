"""The result in words: it claims no more than the figures show."""

import re

import pytest

from cheaplip.report.read import read_study
from cheaplip.report.sentences.headline import headline
from cheaplip.report.table import columns, groups
from report_folders import row, write


def told(folder, rows):
    write(folder / "results.json", rows)
    found = read_study(folder)
    return headline(found, groups(found), columns(found))


def test_the_headline_is_a_sentence_about_clip_and_plain_training(study):
    found = headline(read_study(study), groups(read_study(study)), columns(read_study(study)))
    assert found.sentence == (
        "CLIP still gets 67.5\u202f% of the MNIST test inputs right when each input is attacked; "
        "plain training gets 4.5\u202f%."
    )
    assert found.details == (
        "On the unchanged inputs they get 96.5\u202f% and 97.5\u202f% right.",
        "The attack is L2-PGD. It may move each input by up to 2 (L2) and was tried on 1,000 test inputs.",
        "The largest quotient found (change of the output divided by change of the input) is 1.70 for CLIP and 34.0 "
        "for plain training.",
        "Not the best result here: adversarial training gets 69.5\u202f% right.",
    )


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        pytest.param(
            [row("plain", robust={"pgd@1.0": 0.5}), row("clip", robust={"pgd@1.0": 0.4})],
            "CLIP does worse than plain training when each input is attacked: "
            "it gets 40.0.% of the test inputs right, against 50.0.%.",
            id="clip-loses",
        ),
        pytest.param(
            [
                row("plain", robust={"pgd@1.0": 0.26}, robust_samples={"pgd@1.0": 50}),
                row("clip", robust={"pgd@1.0": 0.28}, robust_samples={"pgd@1.0": 50}),
            ],
            "No clear difference between CLIP and plain training when each input is attacked: "
            "they get 28.0.% and 26.0.% of the test inputs right.",
            id="few-inputs",
        ),
        pytest.param(
            [row("plain", robust={}), row("clip", robust={})],
            "Of 2 configurations on .+, plain training gets the most test inputs right: 98.0.%.",
            id="no-attack",
        ),
        pytest.param(
            [
                row("no grace", method="clip", robust={"noise@1.0": 0.5}),
                row("full", method="clip", robust={"noise@1.0": 0.6}),
            ],
            "“full” still gets 60.0.% of the test inputs right under noise of σ = 1; “no grace” gets 50.0.%.",
            id="without-plain",
        ),
        pytest.param(
            [
                row("plain", robust={"pgd@1.0": 0.5}),
                row("clip 1 %", method="clip", robust={"pgd@1.0": 0.4}),
                row("clip 2 %", method="clip", robust={"pgd@1.0": 0.9}, constant_answer="no"),
            ],
            "“clip 1 %” does worse than plain training when each input is attacked: "
            "it gets 40.0.% of the test inputs right, against 50.0.%.",
            id="a-constant-withstands-everything",
        ),
        pytest.param(
            [row("plain", robust={"pgd@1.0": 0.5}), row("clip", robust={"pgd@1.0": 0.9}, constant_answer="no")],
            "Plain training gets 98.0.% of the test inputs right, and 50.0.% when each input is attacked.",
            id="all-but-one-are-constant",
        ),
        pytest.param(
            [row("clip")],
            "CLIP gets 97.0.% of the test inputs right, and 68.0.% when each input is attacked.",
            id="one",
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


def test_a_target_missed_on_validation_data_is_reported(tmp_path):
    write(tmp_path / "metrics.json", row("clip", accuracy={"train": 0.99, "validation": 0.95, "test": 0.9}))
    write(tmp_path / "config.json", {"data": "mnist", "method": "clip", "target": 0.98, "target_on": "validation"})
    study = read_study(tmp_path)
    details = headline(study, groups(study), columns(study)).details
    assert any("on validation data is 95.0\u202f% instead of 98.0\u202f%." in detail for detail in details)


def test_a_missed_target_is_reported(tmp_path):
    accuracy = {"train": 0.9, "test": 0.9}
    details = told(tmp_path, [row("plain"), row("clip", accuracy=accuracy)]).details
    assert details[-1] == (
        "CLIP missed its target: its accuracy on training data is 90.0\u202f% instead of 98.0\u202f%. "
        "Train longer, or ask for less: a lower target, or more to give up."
    )


@pytest.mark.parametrize("run", ["reference", "../plain", None])
def test_the_plain_network_of_a_run_is_its_rival(run, tmp_path):
    aim = {} if run is None else {"aim": {"reference_run": run, "figure": "accuracy"}}
    write(tmp_path / "metrics.json", row("clip", robust={"pgd@1.0": 0.6}, **aim))
    write(tmp_path / "config.json", {"method": "clip", "data": "mnist"})
    (tmp_path / "reference").mkdir()
    write(tmp_path / "reference" / "metrics.json", row("plain", robust={"pgd@1.0": 0.2}))
    write(tmp_path / "reference" / "config.json", {"method": "plain", "data": "mnist"})
    found = read_study(tmp_path)
    if run != "reference":  # the folder was left by an earlier run
        assert [group.name for group in groups(found)] == ["clip"]
        return
    assert [group.name for group in groups(found)] == ["clip", "plain"]
    sentence = headline(found, groups(found), columns(found)).sentence
    assert re.fullmatch("CLIP still gets 60.0.% .* when each input is attacked; plain training gets 20.0.%.", sentence)


def test_a_radius_of_standardised_features_is_in_standard_deviations(tmp_path):
    write(tmp_path / "metrics.json", row("clip", robust={"pgd@1.0": 0.6}))
    write(tmp_path / "report.json", {"scaling": "standard"})
    found = read_study(tmp_path)
    details = headline(found, groups(found), columns(found)).details
    assert "The attack is L2-PGD. It may move each input by up to 1 standard deviations (L2)" in details[0]
