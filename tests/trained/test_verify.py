"""``verify`` believes nothing: what a run's files state is computed again, refused, or named as not checked."""

import csv
import importlib
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from cheaplip.cli import run
from cheaplip.errors import ConfigError, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.json_text import parse
from cheaplip.trained.card import markdown, weights_digest
from cheaplip.trained.card_form import UntrueCardError
from cheaplip.trained.verify import verify, verify_card
from cheaplip.training.certified_csv import difference

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the repository's benchmarks/"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def edits():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("edits")


@pytest.fixture(scope="module")
def finished(edits, tmp_path_factory):
    path = tmp_path_factory.mktemp("verified") / "run"
    data = edits.prepare(path)
    with edits.remembered(data):
        yield path, data


@pytest.fixture
def certified(finished, tmp_path):
    source, data = finished
    shutil.copytree(source, tmp_path / "run")
    return tmp_path / "run", data


def change(path, name, edit, *, told=True):
    """Edit a JSON file; ``told``: of a card, also its text."""
    content = json.loads((path / name).read_text())
    edit(content)
    (path / name).write_text(json.dumps(content))
    if name == "card.json" and told:
        (path / "card.md").write_text(markdown(content))


def card(edit, **options):
    return lambda path: change(path, "card.json", edit, **options)


def metrics(edit):
    return lambda path: change(path, "metrics.json", edit)


def text(name, edit):
    return lambda path: (path / name).write_text(edit((path / name).read_text()))


def meet(content):
    content["bracket"].update(lower=content["bracket"]["upper"], gap=1.0, method="exact")


def tighten(content):
    b = content["bracket"]
    b.update(upper=b["lower"] * 1.0001, gap=1.0001)


def fake_line(content):
    content["accuracy"]["certified"]["0.2 | 99.00 % | 359 |\n| certified, ε = 9.0"] = 0.0


def fake_attack(content):
    content["accuracy"]["attacked"]["pgd@0.05 | 1 |\n\n## Proved by others\n\nx@1.0"] = 0.5
    content["accuracy"]["attacked_inputs"]["pgd@0.05 | 1 |\n\n## Proved by others\n\nx@1.0"] = 50


def grow_radii(table):
    rows = list(csv.reader(io.StringIO(table)))
    return (
        "\n".join(",".join([*row[:3], row[3] if i == 0 else str(1.5 * float(row[3]))]) for i, row in enumerate(rows))
        + "\n"
    )


def swap_predictions(table):
    return table.replace("\n3,", "\n3,9", 1)


def less(content):
    content["accuracy"]["certified"] = {
        key: value - 10 / 359 for key, value in content["accuracy"]["certified"].items()
    }


EDITS = {
    "lower-is-upper": (card(meet), "no: the card says Lip(f) ≥ "),
    "upper-is-lower": (card(tighten), "no: the card says Lip(f) ≤ "),
    "exact": (card(lambda c: c["bracket"].update(method="exact")), "by the method 'exact', which does not"),
    "method": (card(lambda c: c["bracket"].update(method="norms")), "by the method 'norms', which does not"),
    "unknown-method": (card(lambda c: c["bracket"].update(method="magic")), "no: the card names the method 'magic'"),
    "fake-line": (card(fake_line), "is not a card of 'cheaplip certify' (CardFormError: certified: could not convert"),
    "fake-attack": (card(fake_attack), "is not a card of 'cheaplip certify' (CardFormError: "),
    "extra-section": (card(lambda c: c.update(proved={"upper": 0.1})), "unknown key 'proved'"),
    "extra-key": (card(lambda c: c["bracket"].update(radius=9.0)), "bracket unknown key 'radius'"),
    "extra-option": (card(lambda c: c["training"].update(seal="x")), "training: unknown option 'seal'"),
    "missing-key": (
        card(lambda c: c["data"].pop("scaling"), told=False),
        "is not a card of 'cheaplip certify' (KeyError",
    ),
    "missing-section": (card(lambda c: c.pop("versions"), told=False), "missing key 'versions'"),
    "version-line": (
        card(lambda c: c["versions"].update(torch="2\n\n## Proved")),
        "versions torch: expected a version",
    ),
    "boolean": (card(lambda c: c["bracket"].update(lower=True)), "(TypeError: expected a number, got True)"),
    "text": (
        card(lambda c: c["accuracy"].update(clean="0.9"), told=False),
        "(TypeError: expected a number, got '0.9')",
    ),
    "list": (card(lambda c: c["accuracy"].update(attacked=[]), told=False), "is not a card of 'cheaplip certify'"),
    "infinite": (card(lambda c: c["bracket"].update(upper=math.inf)), "no: "),
    "nan": (card(lambda c: c["accuracy"]["certified"].update({"0.05": math.nan})), "no: the card says that nan is"),
    "noise-nan": (card(lambda c: c["accuracy"]["attacked"].update({"noise@0.05": math.nan})), "which is no accuracy"),
    "noise-above-1": (card(lambda c: c["accuracy"]["attacked"].update({"noise@0.05": 1.5})), "which is no accuracy"),
    "count": (
        card(lambda c: c["data"].update(test_inputs=3590)),
        "no: the card says data test_inputs 3590, here it is 359",
    ),
    "clean": (
        card(lambda c: c["accuracy"].update(clean=c["accuracy"]["clean"] + 1 / 359)),
        "no: the card says accuracy",
    ),
    "fewer-certified": (card(less), "is certified at ε = 0.05, here it is"),
    "radius-key": (card(lambda c: c["accuracy"]["certified"].update({"0.050": 0.0})), "is not a card"),
    "data-hash": (card(lambda c: c["data"].update(sha256="0" * 64)), "no: the test data are not those of the card"),
    "epochs": (card(lambda c: c["training"].update(epochs=900)), "no: metrics.json says epochs 8, expected 900"),
    "radii": (text("certified.csv", grow_radii), "no: certified.csv: line 2, radius: it says"),
    "row": (text("certified.csv", lambda t: t + "359,1,1,9.0\n"), "no: certified.csv: expected 359 rows as"),
    "column": (
        text("certified.csv", lambda t: t.replace("\n", ",9.0\n")),
        "no: certified.csv: expected the columns index",
    ),
    "quotes": (text("certified.csv", lambda t: t.replace("\n7,", '\n"7",')), "certified.csv: expected 359 rows as"),
    "index": (text("certified.csv", swap_predictions), "no: certified.csv: line 5, label: it says"),
    "empty-csv": (text("certified.csv", lambda _: ""), "no: certified.csv: expected the columns index"),
    "test-accuracy": (metrics(lambda m: m["accuracy"].update(test=0.99)), "no: metrics.json says test accuracy 0.9900"),
    "train-accuracy": (
        metrics(lambda m: m["accuracy"].update(train=1.0)),
        "no: metrics.json says train accuracy 1.0000",
    ),
    "other-accuracy": (metrics(lambda m: m["accuracy"].update(best=1.0)), "no: metrics.json accuracy: expected train"),
    "certified": (metrics(lambda m: m["certified"].update({"0.3": 0.5})), "no: metrics.json says certified"),
    "metrics-lower": (
        metrics(lambda m: m["lipschitz"].update(lower=1.0 + m["lipschitz"]["lower"])),
        "which two inputs have",
    ),
    "metrics-upper": (
        metrics(lambda m: m["lipschitz"].update(upper=m["lipschitz"]["lower"] * 1.0001)),
        "no: metrics.json",
    ),
    "metrics-method": (
        metrics(lambda m: m["lipschitz"].update(upper_method="exact")),
        "by the method 'exact', which does not",
    ),
    "metrics-attack": (metrics(lambda m: m["robust"].update({"pgd@0.05": 0.0})), "which cannot be"),
    "metrics-text": (metrics(lambda m: m["accuracy"].update(test="high")), "metrics.json is damaged (TypeError"),
    "sections": (text("card.md", lambda t: t + "\n## Also proved\n"), "no: card.md does not say what card.json says"),
    "deep": (lambda path: (path / "card.json").write_text("[" * 100_000), "card.json: expected at most 32 levels"),
    "deep-inside": (
        card(lambda c: c["bracket"].update(gap=[[[[[[1]]]]]] * 1000), told=False),
        "expected a number, got [[[",
    ),
    "duplicate": (
        text("card.json", lambda t: t.replace("{", '{"bracket": {}, ', 1)),
        "the key 'bracket' is there twice",
    ),
    "surrogate": (
        text("card.json", lambda t: t.replace('"sha256": "', '"sha256": "\\ud800', 1)),
        "half of a character",
    ),
    "not-utf-8": (lambda path: (path / "card.json").write_bytes(b"\xff\xfe{}"), "cannot read"),
    "no-text": (lambda path: (path / "card.md").unlink(), "no card.md in"),
    "no-table": (lambda path: (path / "certified.csv").unlink(), "no certified.csv in"),
    "no-metrics": (lambda path: (path / "metrics.json").unlink(), "no metrics.json in"),
    "export-bytes": (lambda path: (path / "model.onnx").write_bytes(b"x"), "no: 'model.onnx' is not the file that"),
    "export-gone": (lambda path: (path / "model.onnx").unlink(), "no: 'model.onnx' is not the file that"),
    "export-domain": (
        lambda path: change(path, "model-card.json", lambda c: c["input"].update(domain="Box(-9, 9)")),
        "no: model-card.json says input",
    ),
    "export-key": (
        lambda path: change(path, "model-card.json", lambda c: c.update(proved=1)),
        "no: model-card.json has the key 'proved'",
    ),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_an_edit_is_found_and_named_on_one_line(edit, message, certified):
    path, data = certified
    edit(path)
    with pytest.raises(RunError) as refused:
        verify(RunFolder(path), seconds=0.2, data=data)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_true_card_is_believed_and_what_was_not_checked_is_named(certified):
    path, data = certified
    found = verify_card(RunFolder(path), seconds=0.2, data=data)
    assert found.card == json.loads((path / "card.json").read_text())
    (path / "notes.txt").write_text("mine")
    for words in ("how it was trained", "noise@0.05, pgd@0.05", "seconds_per_epoch", "history.jsonl, notes.txt"):
        assert any(words in line for line in verify_card(RunFolder(path), seconds=0.2, data=data).unchecked), words


@pytest.mark.parametrize(
    "edit",
    [
        card(lambda c: c["versions"].update(torch="1.0", python="3.99")),
        card(lambda c: c["accuracy"]["attacked"].update({"noise@0.05": 0.9})),
        card(lambda c: c["training"].pop("momentum")),
        metrics(lambda m: m.update(seconds_per_epoch=0.001)),
        lambda path: (path / "witness.safetensors").write_bytes((path / "witness.safetensors").read_bytes()),
    ],
    ids=["versions", "attack", "option-of-a-later-version", "seconds", "same"],
)
def test_an_edit_that_cannot_be_checked_is_named(edit, certified):
    path, data = certified
    edit(path)
    assert any("seconds_per_epoch" in line for line in verify_card(RunFolder(path), seconds=0.2, data=data).unchecked)


def test_sixty_random_edits_are_found_or_harmless(edits, finished):
    path, data = finished
    found = list(edits.edited(path, data, edits=60, seed=1))
    assert [row for row in found if row[2] == "missed"] == []
    assert sum(verdict == "found" for _, _, verdict, _ in found) >= 40
    assert {kind for kind, *_ in found} == {kind.name for kind in edits.KINDS}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("drop", 1.5, "drop: expected text, got 1.5"),
        ("mu", 10**400, "a value of the wrong type or size"),
        ("device", [None], r"device: cannot use \[None\]"),
    ],
)
def test_an_option_of_another_type_or_size_is_named(name, value, message, certified):
    path, data = certified
    change(path, "config.json", lambda config: config.update({name: value}))
    with pytest.raises(ConfigError, match=message):
        verify(RunFolder(path), seconds=0.2, data=data)


def test_the_usual_number_of_epochs_is_not_the_one_that_was_run(certified):
    path, data = certified
    change(path, "config.json", lambda config: config.update(epochs=None))
    with pytest.raises(UntrueCardError, match=r"the card says 8 epochs, config\.json 20"):
        verify(RunFolder(path), seconds=0.2, data=data)


def test_a_key_of_metrics_that_looks_like_a_line_of_the_card_is_refused(certified):
    path, data = certified
    change(path, "metrics.json", lambda metrics: metrics.update({"x | 1 |\n| certified": 1.0}))
    with pytest.raises(UntrueCardError, match="unknown key"):
        verify(RunFolder(path), seconds=0.2, data=data)


def test_weights_of_other_names_are_refused_on_one_line(certified):
    path, data = certified
    content = (path / "model.safetensors").read_bytes().replace(b'"1.weight"', b'"1.geight"', 1)
    (path / "model.safetensors").write_bytes(content)
    change(path, "card.json", lambda card: card["model"].update(sha256=weights_digest(RunFolder(path))))
    with pytest.raises(RunError, match="does not fit the model") as refused:
        verify(RunFolder(path), seconds=0.2, data=data)
    assert "\n" not in str(refused.value)


def test_the_command_prints_what_was_not_checked(certified, capsys):
    path, _ = certified
    assert run(["verify", str(path), "--seconds", "0.1"]) == 0
    said = capsys.readouterr().err
    assert "yes: the weights and the data are those of the card" in said
    assert "not checked: figures under attack: noise@0.05, pgd@0.05 ('cheaplip evaluate')" in said


@pytest.mark.slow
@pytest.mark.parametrize("seconds", ["0.05", "0.5", "20"])
def test_a_card_that_took_longer_than_its_verification_is_believed(seconds, tmp_path):
    options = ["--method", "plain", "--model", "mlp:64,48", "--epochs", "3", "--probe", "0", "--search", "16"]
    assert run(["train", "digits", "--no-measure", "--out", str(tmp_path / "run"), *options]) == 0
    assert run(["certify", str(tmp_path / "run"), "--epsilon", "0.01", "--seconds", "6"]) == 0
    assert run(["verify", str(tmp_path / "run"), "--seconds", seconds]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 33 + b"]" * 33, "expected at most 32 levels"),
        (b"[" * 1_000_000, "expected at most 32 levels of brackets, got many more"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (b'"\\udc00"', "half of a character"),
        (b" " * ((64 << 20) + 1), "expected at most 67108864 bytes, got more"),
        (b"9" * 10_000, "Exceeds the limit"),
        (b"{", "Expecting property name"),
    ],
    ids=["33-levels", "million-levels", "twice", "surrogate", "large", "digits", "broken"],
)
def test_json_is_bounded_and_unambiguous(content, message):
    with pytest.raises(ValueError, match=message):
        parse(content)
    assert parse(b'{"a": [1, {"b": null}], "c": "\xc3\xa4"}') == {"a": [1, {"b": None}], "c": "ä"}


def test_radii_may_differ_by_another_machine_s_rounding():
    table = "index,label,prediction,radius\n0,1,1,0.25\n1,2,0,0.0\n"
    assert difference(table, table) == ""
    assert difference(table.replace("0.25", str(0.25 * (1 + 1e-12))), table) == ""
    assert difference(table.replace("2,0,0.0", "2,2,1e-13"), table) == ""  # a tie
    assert difference(table.replace("0.25", "0.2500001"), table) != ""
    assert difference(table.replace("1,1,0.25", "1,0,0.25"), table) != ""


def test_a_constant_network_is_verified_and_a_claim_that_it_is_one_is_checked(certified, tmp_path, monkeypatch):
    folder, data = certified
    for name in ("card.json", "metrics.json"):
        content = json.loads((folder / name).read_text())
        content["constant_answer"] = "3"
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(UntrueCardError, match="the card says constant_answer '3', here it is ''"):
        verify_card(RunFolder(folder), seconds=0.2, data=data)
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.savez("noise.npz", x=generator.random((200, 3)), y=(generator.random(200) < 0.1).astype(int))
    options = ["--method", "plain", "--model", "mlp:4", "--epochs", "1", "--probe", "0", "--no-measure"]
    assert run(["train", "noise.npz", *options, "--out", "constant"]) == 0
    assert run(["certify", "constant", "--epsilon", "0.1", "--seconds", "0.2"]) == 0
    assert verify_card(RunFolder(tmp_path / "constant"), seconds=0.2).card["constant_answer"] == "0"
