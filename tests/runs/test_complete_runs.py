"""A run keeps what it learnt from its data, and uses it wherever the data are, and however they have changed."""

import json
import shutil

import numpy as np
import pytest
import torch

from cheaplip import CheaplipWarning
from cheaplip.cli import run
from cheaplip.data import Recipe, load
from cheaplip.errors import DataError, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.evaluate import evaluate
from cheaplip.trained.loading import load_run
from cheaplip.training import TrainConfig, train

TINY = {"epochs": 2, "model": "mlp:4", "probe": 0, "search": 4, "method": "plain", "batch_size": 16}
OPTIONS = ["--epochs", "2", "--model", "mlp:4", "--probe", "0", "--search", "4", "--method", "plain"]
NAMES = "size,colour,weight,kind"


def lines(count=60, seed=0):
    """Rows of a table with units of their own, categories, and missing values of both kinds."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        size, weight = rng.normal(5, 1), rng.normal(100, 20)
        colour = ["red", "green", "blue", ""][i % 4]
        kind = "high" if (size - 5) + (weight - 100) / 20 > 0 else "low"
        made.append(f"{size:.4f},{colour},{'' if i == 7 else f'{weight:.3f}'},{kind}")
    return made


LINES = lines()


def write(path, rows=LINES, names=NAMES):
    path.write_text("\n".join([names, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run on a table, and its data as they were."""
    folder = tmp_path_factory.mktemp("complete")
    source = write(folder / "mine.csv")
    config = TrainConfig(data=str(source), label="kind", **TINY)
    data = load(str(source), label="kind")
    train(config, data, RunFolder(folder / "run"))
    return folder, data


@pytest.fixture
def moved(made, tmp_path):
    """A copy of the run whose data are in a file of the test's folder."""
    folder, data = made
    shutil.copytree(folder / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "data": str(tmp_path / "mine.csv")}))
    return RunFolder(tmp_path / "run"), tmp_path / "mine.csv", data


def same(one, other):
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(one, part).x, getattr(other, part).x)
        assert torch.equal(getattr(one, part).y, getattr(other, part).y)
    for name in ("class_names", "feature_names", "categorical", "epsilon", "noise", "classes", "scaling"):
        assert getattr(one, name) == getattr(other, name)
    assert torch.equal(one.domain.low, other.domain.low)
    assert torch.equal(one.domain.high, other.domain.high)
    assert torch.equal(one.standardisation.mean, other.standardisation.mean)
    assert torch.equal(one.standardisation.deviation, other.standardisation.deviation)


def test_everything_that_was_learnt_is_in_the_folder(made):
    folder, data = made
    content = json.loads((folder / "run" / "data.json").read_text())
    assert content["classes"] == ["high", "low"]
    assert content["features"] == [
        *("size", "colour = blue", "colour = green", "colour = missing"),
        "colour = red",
        "weight",
    ]
    assert content["scaling"]["kind"] == "standard"
    assert content["scaling"]["mean"] == data.standardisation.mean.tolist()
    assert [column["name"] for column in content["columns"]] == ["size", "colour", "weight"]
    assert content["columns"][1]["categories"] == ["blue", "green", "missing", "red"]
    assert (content["parts"], len(content["rows"])) == ([42, 6, 12], 60 * 16)
    assert len(content["sha256"]) == 64
    assert len(content["description"]) == 3
    assert Recipe.from_json(content) == data.recipe


HARMLESS = {
    "unchanged": lambda path: write(path),
    "shuffled": lambda path: write(path, LINES[::-1]),
    "semicolons": lambda path: write(path, [line.replace(",", ";") for line in LINES], NAMES.replace(",", ";")),
    "decimal commas": lambda path: write(
        path, [line.replace(",", ";").replace(".", ",") for line in LINES], NAMES.replace(",", ";")
    ),
    "columns in another order": lambda path: write(
        path, [",".join(line.split(",")[::-1]) for line in LINES], "kind,weight,colour,size"
    ),
    "a new column": lambda path: write(path, [f"{line},2024-01-01" for line in LINES], NAMES + ",when"),
    "a new index": lambda path: write(path, [f"{i},{line}" for i, line in enumerate(LINES)], "," + NAMES),
    "another encoding": lambda path: path.write_bytes("\n".join([NAMES, *LINES]).encode("utf-16")),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_the_same_rows_in_another_form_are_the_same_data(change, moved):
    folder, path, data = moved
    change(path)
    same(load_run(folder).data, data)


GROWN = {
    "rows": lines(20, seed=1),
    "rows in another unit": [f"{1000 * i},red,{i},low" for i in range(20)],
    "rows of a new category": [f"{i},violet,{i},low" for i in range(5)],
    "rows of a new class": [f"{i},red,{i},middle" for i in range(5)],
    "rows without a label": [f"{i},red,{i}," for i in range(5)],
    "rows that hold no numbers": [f"big,red,{i},low" for i in range(5)],
    "rows that are there already": LINES[:5],
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("rows", GROWN.values(), ids=GROWN)
def test_new_rows_are_told_and_left_out(rows, place, moved):
    folder, path, data = moved
    write(path, [*rows, *LINES] if place == "before" else [*LINES, *rows])
    message = f"mine.csv: {len(rows)} rows are new since the run was trained; they are left out, and its own 60 rows"
    with pytest.warns(CheaplipWarning, match=message):
        same(load_run(folder).data, data)


CHANGED = {
    "a row less": (lambda: LINES[1:], "the 60 rows that the run was trained on, got 59: 1 of the run's rows"),
    "another number": (lambda: [*LINES[:-1], LINES[-1].replace("1", "2", 1)], "got 60: 1 of the run's rows"),
    "another label": (
        lambda: [LINES[0].replace("high", "l*").replace("low", "high").replace("l*", "low"), *LINES[1:]],
        "1 of the run's rows",
    ),
    "another category": (lambda: [LINES[0].replace("red", "blue"), *LINES[1:]], "1 of the run's rows"),
    "rounded": (lambda: [line[:3] + line[6:] for line in LINES], "60 of the run's"),
    "another unit": (lambda: [f"{10 * float(line[:6])}{line[6:]}" for line in LINES], "60 of the run's"),
    "another table": (lambda: lines(60, seed=5), "60 of the run's rows (12 of them test rows) changed or missing, 60"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "message"), CHANGED.values(), ids=CHANGED)
def test_rows_that_are_gone_are_told_and_refused(rows, message, moved):
    folder, path, _ = moved
    write(path, rows())
    with pytest.raises(DataError, match=r"name the file that holds them with --data, or train again$") as caught:
        load_run(folder)
    assert message in str(caught.value)


def test_a_column_that_is_gone_is_named(moved):
    folder, path, _ = moved
    write(path, [line.split(",", 1)[1] for line in LINES], "colour,weight,kind")
    with pytest.raises(DataError, match="expected the columns that the run was trained on, got none named 'size'"):
        load_run(folder)


def test_a_file_that_is_gone_is_asked_for(moved):
    folder, path, data = moved
    with pytest.raises(DataError, match=r"no such file; .* have moved, name them with --data"):
        load_run(folder)
    other = write(path.with_name("elsewhere.csv"))
    same(load_run(folder, source=str(other)).data, data)


@pytest.mark.parametrize(
    "command",
    [["evaluate", "--attacks", "noise", "--epsilon", "0.1"], ["bracket", "--seconds", "0"], ["export"]],
    ids=lambda command: command[0],
)
def test_every_command_finds_data_that_moved(command, moved, capsys):
    folder, path, _ = moved
    other = write(path.with_name("elsewhere.csv"))
    name, *options = command
    assert run([name, str(folder.path), *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--data" in err
    assert run([name, str(folder.path), *options, "--data", str(other)]) == 0


def test_a_card_is_verified_where_the_data_moved_and_grew(moved):
    folder, path, _ = moved
    other = str(write(path.with_name("elsewhere.csv"), [*LINES, *GROWN["rows in another unit"]]))
    assert run(["certify", str(folder.path), "--epsilon", "0.1", "--seconds", "0", "--data", other]) == 0
    assert run(["verify", str(folder.path), "--seconds", "0", "--data", other]) == 0
    text = (folder.path / "card.md").read_text()
    assert (
        "Each category of colour is a feature, 0 or 1, so another category in one of these columns is a distance"
        in text
    )


def test_an_exported_model_stays_the_same_and_takes_the_columns_units(moved):
    folder, path, data = moved
    write(path)
    assert run(["export", str(folder.path)]) == 0
    before = torch.export.load(folder.path / "model.pt2").module()
    write(path, [*LINES, *GROWN["rows in another unit"]])
    assert run(["export", str(folder.path)]) == 0
    after = torch.export.load(folder.path / "model.pt2").module()
    raw = data.standardisation.inverse(data.test.x.double()).float()
    torch.testing.assert_close(before(raw), after(raw), rtol=0, atol=0)
    model = load_run(folder, data).model
    torch.testing.assert_close(after(raw), model(data.test.x).detach(), rtol=1e-4, atol=1e-5)
    card = folder.read_json("model-card.json")
    assert card["features"] == list(data.feature_names)
    assert card["classes"] == ["high", "low"]


def test_a_run_is_resumed_on_a_file_that_grew_and_moved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.csv")
    options = ["--label", "kind", *OPTIONS, "--out", "run"]
    assert run(["train", "mine.csv", *options, "--no-measure"]) == 0
    wanted = json.loads((tmp_path / "run" / "metrics.json").read_text())
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "mine.csv").unlink()
    write(tmp_path / "grown.csv", [*LINES, *GROWN["rows in another unit"]])
    assert run(["train", "grown.csv", *options, "--resume", "--no-measure"]) == 0
    assert "20 rows are new since the run was trained" in capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["accuracy"] == wanted["accuracy"]
    assert found["lipschitz"] == wanted["lipschitz"]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    assert run(["train", "grown.csv", *options, "--resume"]) == 0  # measures: its searches end with their time
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert measured["accuracy"]["test"] == wanted["accuracy"]["test"]
    assert wanted["lipschitz"]["lower"] <= measured["lipschitz"]["lower"] <= measured["lipschitz"]["upper"]


def test_a_run_is_not_resumed_on_other_data(moved):
    folder, path, _ = moved
    write(path, lines(60, seed=5))
    config = TrainConfig(data=str(path), label="kind", **TINY)
    (folder.path / "metrics.json").unlink()
    with pytest.raises(RunError, match="the data are not those that it was started on: name those instead of"):
        train(config, load(str(path), label="kind"), folder, resume=True)


def arrays(rng, count=60):
    return rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8), np.arange(count) % 2


def test_images_in_an_array_that_grew(tmp_path):
    x, y = arrays(np.random.default_rng(0))
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    data = load(str(tmp_path / "mine.npz"))
    train(TrainConfig(data=str(tmp_path / "mine.npz"), **TINY), data, RunFolder(tmp_path / "run"))
    more, labels = arrays(np.random.default_rng(1), 20)
    np.savez(tmp_path / "mine.npz", x=np.concatenate([more, x]), y=np.concatenate([labels, y]))
    with pytest.warns(CheaplipWarning, match="20 rows are new"):
        found = load_run(RunFolder(tmp_path / "run")).data
    assert torch.equal(found.test.x, data.test.x)
    assert run(["export", str(tmp_path / "run")]) == 0
    program = torch.export.load(tmp_path / "run" / "model.pt2").module()
    raw = data.rescaling.inverse(data.test.x.double()).round().float()
    assert raw.max() == 255
    with pytest.warns(CheaplipWarning, match="20 rows are new"):
        model = load_run(RunFolder(tmp_path / "run")).model
    torch.testing.assert_close(program(raw), model(data.test.x).detach(), rtol=1e-4, atol=1e-5)
    card = json.loads((tmp_path / "run" / "model-card.json").read_text())
    assert card["input"]["domain"] == "Box(0, 255)"


def test_a_range_stays_the_run_s_own(tmp_path):
    """Bytes that are 0 or 1 are not divided by 255, even when brighter ones join them."""
    x, y = arrays(np.random.default_rng(0))
    np.savez(tmp_path / "mine.npz", x=x // 128, y=y)
    data = load(str(tmp_path / "mine.npz"))
    np.savez(tmp_path / "mine.npz", x=np.concatenate([x // 128, x]), y=np.concatenate([y, y]))
    with pytest.warns(CheaplipWarning, match="60 rows are new"):
        assert torch.equal(load(str(tmp_path / "mine.npz"), recipe=data.recipe).test.x, data.test.x)


def test_unix_seconds_are_exported_in_double_precision(tmp_path):
    rows = [f"{1_700_000_000 + 2 * i},{i % 7},{i % 2}" for i in range(80)]
    write(tmp_path / "mine.csv", rows, "t,b,y")
    data = load(str(tmp_path / "mine.csv"), label="y")
    config = TrainConfig(data=str(tmp_path / "mine.csv"), label="y", **TINY)
    train(config, data, RunFolder(tmp_path / "run"))
    assert run(["export", str(tmp_path / "run")]) == 0
    card = json.loads((tmp_path / "run" / "model-card.json").read_text())
    assert card["input"]["dtype"] == "float64"
    program = torch.export.load(tmp_path / "run" / "model.pt2").module()
    raw = data.standardisation.inverse(data.test.x.double())
    torch.testing.assert_close(program(raw), load_run(RunFolder(tmp_path / "run")).model(data.test.x).detach())


def test_a_frame_s_run_is_evaluated_on_its_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    write(tmp_path / "mine.csv")
    data = load(pandas.read_csv(tmp_path / "mine.csv"), label="kind")
    train(TrainConfig(data="frame", label="kind", **TINY), data, RunFolder(tmp_path / "run"))
    found = evaluate(RunFolder(tmp_path / "run"), attacks=["noise"], source=str(tmp_path / "mine.csv"))
    assert len(found["robust"]) == 1


def test_a_function_that_makes_other_rows_each_time_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "changing.py").write_text(
        "import numpy as np\n\ndef make():\n    x = np.random.default_rng().normal(size=(60, 3))\n"
        "    return x, np.arange(60) % 2\n"
    )
    data = load("changing:make")
    with pytest.warns(CheaplipWarning, match="changing:make: the data have changed since the run was trained"):
        again = load("changing:make", recipe=data.recipe)
    assert len(again.test.x) == len(data.test.x)
    assert again.recipe.sha256 != data.recipe.sha256


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: {"source": "mine.csv"},
        lambda content: {**content, "parts": [41, 6, 12]},
        lambda content: {**content, "parts": [48, 12]},
        lambda content: {**content, "box": {"low": [0.0] * 6, "high": [0.1] * 6}},
    ],
    ids=["empty", "a part less", "other parts", "a smaller box"],
)
def test_a_damaged_record_is_refused(spoil, moved):
    folder, path, _ = moved
    write(path)
    folder.write_json("data.json", spoil(folder.read_json("data.json")))
    with pytest.raises(DataError, match=r"^data\.json: expected "):
        load_run(folder)


def test_a_run_without_a_record_reads_its_data_anew(moved):
    folder, path, data = moved
    write(path)
    (folder.path / "data.json").unlink()
    same(load_run(folder).data, data)


def test_the_data_are_described_before_the_training(tmp_path, capsys):
    write(tmp_path / "mine.csv")
    options = ["--label", "kind", *OPTIONS, "--json", "--out", str(tmp_path / "run")]
    assert run(["train", str(tmp_path / "mine.csv"), *options]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    first, second, third = err.splitlines()[:3]
    assert first.startswith(
        "60 rows, 2 columns of numbers, 1 of categories (colour), together 6 features, in standard deviations; 2 c"
    )
    assert second == (
        "read with: 1 missing numbers replaced by the training rows' median (weight 1); 15 missing texts taken for a "
        "category of their own (colour 15)"
    )
    assert third.startswith("42 to train on, 6 for validation, 12 for the test: drawn at random with seed 0")


def test_a_comparison_continues_on_a_file_that_grew(tmp_path, capsys):
    write(tmp_path / "mine.csv")
    options = ["--label", "kind", *OPTIONS[:-2], "--attacks", "noise", "--out", str(tmp_path / "all"), "--methods"]
    assert run(["compare", str(tmp_path / "mine.csv"), *options, "plain"]) == 0
    write(tmp_path / "mine.csv", [*LINES, *GROWN["rows in another unit"]])
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "mine.csv"), *options, "plain,weight"]) == 0
    assert "20 rows are new since the run was trained" in capsys.readouterr().err
    one, other = (
        json.loads((tmp_path / "all" / f"{name}-seed0" / "data.json").read_text()) for name in ("plain", "weight")
    )
    assert one == other
