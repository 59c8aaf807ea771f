import csv
import dataclasses
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from cheaplip.cli import run
from cheaplip.data import Split, load
from cheaplip.domain import Box
from cheaplip.errors import ConfigError, DataError, DivergedError, Interrupted, RunError
from cheaplip.paper import EXPERIMENTS, classification
from cheaplip.paper.classification import Measures, train_and_measure
from cheaplip.paper.classification_tables import TABLE1_MNIST
from cheaplip.paper.experiment import Experiment, Job, Unit
from cheaplip.paper.figure1 import search_pair
from cheaplip.paper.path import PATH, Violations, smallest_constant, violations
from cheaplip.paper.published import README_NUMBERS, TABLE1_NUMBERS
from cheaplip.paper.regression import REGRESSION, network, samples, truth
from cheaplip.paper.reproduce import reproduce
from cheaplip.paper.selection import chosen
from cheaplip.paper.slope import largest_slope
from cheaplip.paper.stages import Schedule, minimise, walk
from cheaplip.runs.folder import RunFolder
from cheaplip.training.config import TrainConfig
from cheaplip.training.loop import Training
from cheaplip.training.run import train

DIGITS = TrainConfig(
    data="cheaplip.paper.quick:digits", model="mlp:16", epochs=3, pairs=8, probe=0, search=4, target=0.8
)
PAPER = dataclasses.replace(
    DIGITS, held_out=40, step="quotient", renew=0, aggregate="max", rule="additive", rate=0.05, lam=0.0, form="separate"
)
MEASURES = Measures(scored=10, attacked=20, autoattacked=4)


def never():
    return False


# Propositions 2 to 4


TASKS = [
    pytest.param(("regression", 3), id="regression", marks=pytest.mark.slow),
    pytest.param(("interpolation", 5), id="interpolation"),
    pytest.param(("digits", 3), id="digits", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=TASKS)
def path_rows(request, tmp_path_factory):
    """The task, how many checks it has, and its rows."""
    task, checks = request.param
    part = dataclasses.replace(PATH, units=lambda quick: [unit for unit in PATH.units(quick) if unit.name == task])
    return task, checks, reproduce([part], tmp_path_factory.mktemp("path"), quick=True)["path"]


def test_every_check_of_the_path_holds(path_rows):
    _, count, rows = path_rows
    checks = {row["name"]: row["holds"] for row in rows if row.get("check")}
    assert len(checks) == count
    assert [name for name, holds in checks.items() if not holds] == []


def test_along_the_path_loss_rises_and_the_constant_falls(path_rows):
    task, _, rows = path_rows
    rows = [row for row in rows if row["name"].startswith(f"{task}, λ =")]
    rows.sort(key=lambda row: row["lam"])
    assert rows[-1]["loss"] > 2 * rows[0]["loss"]
    assert rows[-1]["lipschitz"]["lower"] < rows[0]["lipschitz"]["lower"] / 10
    for less, more in itertools.pairwise(rows):
        assert more["loss"] >= less["loss"] - 0.01 * rows[-1]["loss"]
        assert more["lipschitz"]["lower"] <= less["lipschitz"]["lower"] + 0.01 * rows[0]["lipschitz"]["lower"]


@pytest.mark.parametrize("path_rows", TASKS[1:2], indirect=True)
def test_the_smallest_fit_is_found_and_plain_training_misses_it(path_rows):
    *_, rows = path_rows
    found = {
        row["name"]: row["lipschitz"]["lower"] / row["smallest_constant"] for row in rows if "smallest_constant" in row
    }
    assert 0.95 < found["interpolation, λ = 0.0001"] < 1.05
    assert found["plain training"] > 2


def test_violations_are_counted_with_their_size():
    assert violations([0.0, 1.0, 4.0]) == Violations(0, 0.0, 2)
    assert violations([4.0, 1.0, 2.0, 0.0]) == Violations(2, 0.75, 3)
    assert violations([1.0, 1.0]) == Violations(0, 0.0, 1)


def test_the_smallest_constant_is_the_steepest_slope_between_neighbours():
    x, y = torch.tensor([[2.0], [0.0], [1.0]]), torch.tensor([[5.0], [0.0], [1.0]])
    assert smallest_constant(x, y) == 4.0


# Regression


def test_samples_lie_on_the_three_intervals():
    x, y = samples(1000)
    assert bool(((x.abs() >= 3) | (x.abs() <= 0.3)).all())
    assert float(x.abs().max()) <= 4
    assert float((y - truth(x)).std()) == pytest.approx(0.05, rel=0.1)
    assert torch.equal(truth(torch.tensor([-4.0, 3.0, 3.5])), torch.tensor([0.5, 0.0, 0.25]))


def test_the_network_is_the_papers():
    net = network()
    assert [layer.out_features for layer in net if isinstance(layer, nn.Linear)] == [500, 200, 100, 1]
    assert [type(layer) for layer in net] == [nn.Linear, nn.Sigmoid] * 4


@pytest.mark.parametrize("at", [-0.731, 0.0, 0.999])
def test_the_largest_slope_is_exact(at):
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).double()
    with torch.no_grad():
        net[0].weight.fill_(300.0)  # a peak as narrow as a few points of the grid
        net[0].bias.fill_(-300.0 * at)
    found = largest_slope(net, -1.0, 1.0)
    assert found.value == pytest.approx(300.0, rel=1e-9)
    assert found.at == pytest.approx(at, abs=1e-6)


def test_the_largest_slope_may_be_at_an_end():
    net = nn.Sequential(nn.Linear(1, 1), nn.Softplus())
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    assert largest_slope(net, -1.0, 2.0).at == 2.0


@pytest.mark.slow
def test_regression(tmp_path):
    rows = reproduce([REGRESSION], tmp_path, quick=True)["regression"]
    constants = {row["name"]: row["lipschitz"]["lower"] for row in rows}
    for suffix in ("", ", tournament"):
        assert constants[f"λ = 10{suffix}"] < 1e-3
        assert constants[f"λ = 1{suffix}"] < 1e-3
        assert 0.4 < constants[f"λ = 1e-10{suffix}"] < 2
    assert all(row["error"] < 0.05 for row in rows if row["lam"] < 1)
    REGRESSION.picture(rows, str(tmp_path / "picture.svg"))
    assert "<svg" in (tmp_path / "picture.svg").read_text()


# A path that is interrupted


def tiny_path(job):
    x = torch.linspace(-1, 1, 8)[:, None]
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)

    def train(lam, on_step):
        minimise(model, lambda _: (x, x + lam), nn.functional.mse_loss, None, Schedule(5, 0.1), on_step)

    return list(walk(job, model, (3.0, 2.0, 1.0), train, lambda lam: {"lam": lam, "w": model.weight.item()}, steps=5))


@pytest.mark.parametrize("steps", [2, 7, 14])
def test_an_interrupted_path_continues_from_its_last_stage(steps, tmp_path):
    torch.manual_seed(0)
    whole = tiny_path(Job(RunFolder(tmp_path / "whole"), True))
    left = iter([False] * steps)
    torch.manual_seed(0)
    with pytest.raises(Interrupted):
        tiny_path(Job(RunFolder(tmp_path / "cut"), True, stop=lambda: next(left, True)))
    torch.manual_seed(0)
    assert tiny_path(Job(RunFolder(tmp_path / "cut"), True)) == whole
    assert [row["lam"] for row in whole] == [3.0, 2.0, 1.0]


# Rows of the tables


def test_the_published_numbers_are_all_there():
    assert {data: len(rows) for data, rows in TABLE1_NUMBERS.items()} == {"mnist": 7, "fashion-mnist": 7}
    assert TABLE1_NUMBERS["mnist"]["CLIP 85"] == {
        "train": 0.876,
        "test": 0.872,
        "noise@1.0": 0.745,
        "pgd-sign@2.0": 0.377,
        "lam": 9.82,
    }
    assert README_NUMBERS["CLIP97"]["pgd-sign@2.0"] == 0.724


@pytest.mark.parametrize(
    ("name", "quick", "count"),
    [
        ("table1-mnist", False, 14),
        ("table1-fashion-mnist", False, 14),
        ("readme", False, 18),
        ("readme", True, 6),
        ("path", False, 3),
    ],
)
def test_every_row_has_a_folder_of_its_own(name, quick, count):
    units = EXPERIMENTS[name][0].units(quick)
    assert len({unit.name for unit in units}) == len(units) == count


def measured(tmp_path, config=PAPER, measures=MEASURES, **job):
    torch.rand(1)  # the global random state must not matter
    rows = train_and_measure("CLIP 80", config, measures, {"test": 0.9}, {}, Job(RunFolder(tmp_path), True, **job))
    for row in rows:
        row.pop("seconds_per_epoch")
    return rows


@pytest.mark.slow
def test_a_certified_row_says_what_is_proved_and_comes_with_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "EPSILON", 0.5)  # digits are small: 2 breaks every epoch's network alike
    config = TrainConfig(data="digits", model="linear", method="certified", epochs=8, target=None, probe=0, search=8)
    rows = measured(tmp_path / "row", config, dataclasses.replace(MEASURES, certified=classification.CERTIFIED))
    for row in rows:
        proved = row["certified"]
        assert proved["1.0"] <= proved["0.5"] <= row["accuracy"]["test"]
        assert proved["0.5"] > 0
        assert row["lipschitz"]["lower"] <= row["lipschitz"]["upper"]
    best = tmp_path / "row" / "best-on-validation"
    with (best / "certified.csv").open() as file:
        lines = list(csv.DictReader(file))
    sure = [line["label"] == line["prediction"] and float(line["radius"]) > 0.5 for line in lines]
    assert rows[0]["certified"]["0.5"] == pytest.approx(sum(sure) / len(lines))
    card = json.loads((best / "card.json").read_text())
    assert card["accuracy"]["certified"] == rows[0]["certified"]
    assert card["training"]["epochs"] == rows[0]["epoch"]


def test_what_the_training_measured_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "largest_quotient", None)
    config = TrainConfig(data="digits", model="linear", method="plain", epochs=1, target=None, probe=0, search=8)
    rows = measured(tmp_path / "row", config)
    folder, best = RunFolder(tmp_path / "row"), RunFolder(tmp_path / "row" / "best-on-validation")
    metrics = folder.read_json("metrics.json")
    assert [row["accuracy"] for row in rows] == [metrics["accuracy"]] * 2
    assert rows[0]["lipschitz"]["lower"] == metrics["lipschitz"]["lower"]
    assert torch.equal(best.load_witness()[0], folder.load_witness()[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("whole") / "row")


def test_a_row_holds_both_checkpoint_rules_beside_the_papers_numbers(whole):
    assert [(row["name"], row["rule"]) for row in whole] == [
        ("CLIP 80", "validation"),
        ("CLIP 80, best on test", "test"),
    ]
    for row in whole:
        assert set(row["robust"]) == {"noise@1.0", "pgd-sign@2.0", "pgd@2.0", "autoattack@2.0"}
        assert row["robust_samples"]["autoattack@2.0"] == 4
        assert row["lipschitz"]["lower"] > 0
        assert row["paper"] == {"test": 0.9}
        assert row["method"] == "clip"
    table = TABLE1_MNIST.table(whole)
    assert f"{100 * whole[0]['accuracy']['test']:.1f} (90.0)" in table


def test_seeds_are_averaged_with_their_standard_deviation(whole):
    rows = [
        {**whole[0], "seed": seed, "accuracy": {**whole[0]["accuracy"], "test": 0.9 + seed / 10}} for seed in (0, 1)
    ]
    assert f"| {100 * whole[0]['accuracy']['train']:.1f} ± 0.0 | 95.0 ± 7.1 (90.0) |" in TABLE1_MNIST.table(rows)


@pytest.mark.parametrize(
    "asked", [5, pytest.param(90, marks=pytest.mark.slow), 127], ids=["training", "later-epoch", "attacks"]
)
def test_an_interrupted_row_continues_and_is_the_same(asked, whole, tmp_path):
    left = iter([False] * asked)
    with pytest.raises(Interrupted):
        measured(tmp_path / "row", stop=lambda: next(left, True))
    assert measured(tmp_path / "row") == whole


def test_the_honest_rule_prefers_epochs_that_meet_the_target(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch, met, validation, test in ((1, False, 0.9, 0.9), (2, True, 0.5, 0.4), (3, True, 0.5, 0.8)):
        folder.append_history({"epoch": epoch, "met": met, "validation_pgd-sign": validation, "test_pgd-sign": test})
    assert chosen(folder, "validation")["epoch"] == 2
    assert chosen(folder, "test")["epoch"] == 1


@pytest.mark.parametrize(
    "steps", [5, pytest.param(40, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)]
)
def test_held_out_pairs_take_turns_and_resume_bit_for_bit(steps, tmp_path):
    data = load(PAPER.data)
    whole = train(PAPER, data, RunFolder(tmp_path / "whole"))
    left = iter([False] * steps)
    folder = RunFolder(tmp_path / "cut")
    with pytest.raises(Interrupted):
        train(PAPER, data, folder, stop=lambda: next(left, True))
    resumed = train(PAPER, data, folder, resume=True)
    assert {**resumed, "seconds_per_epoch": 0} == {**whole, "seconds_per_epoch": 0}
    state = Training(PAPER, data)
    assert len(state.method.groups) == 5
    assert sum(len(part) for part in state.method.groups) == 40
    assert len(state.data.train.x) == 560
    before = [part.u.clone() for part in state.method.groups]
    left = iter([False, False])
    state.run_epoch(lambda: next(left, True))
    moved = [not torch.equal(part.u, u) for part, u in zip(state.method.groups, before, strict=True)]
    assert moved == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "plain"}, "held_out: expected 0, or with --method clip at least one input for each of the 8 pairs"),
        ({"held_out": 7}, "got 7 with --method clip"),
        ({"held_out": -1}, "held_out: expected a whole number of 0 or more, got -1"),
        ({"search": 0}, "search: expected a whole number of 1 or more, got 0"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(PAPER, **change)


def test_more_held_out_than_there_is(tmp_path):
    config = dataclasses.replace(PAPER, held_out=600)
    with pytest.raises(DataError, match="expected fewer than the 600 training inputs, got 600"):
        train(config, load(config.data), RunFolder(tmp_path / "run"))


# The page

RESULTS = Path(__file__).parents[2] / "results" / "reproduction"
in_a_checkout = pytest.mark.skipif(not RESULTS.is_dir(), reason="results and benchmarks are in the repository alone")


@in_a_checkout
def test_the_page_shows_the_committed_tables(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / "benchmarks")
    page = (root / "docs" / "reproduction.md").read_text()
    filled = importlib.import_module("reproduction").filled(page, RESULTS)
    assert filled == page
    assert "| interpolation, λ = 0.0001 |" in filled


@in_a_checkout
@pytest.mark.parametrize("name", [path.name for path in sorted(RESULTS.glob("*"))])
def test_the_committed_tables_are_those_of_the_committed_rows(name):
    folder = RESULTS / name
    (experiment,) = EXPERIMENTS[name]
    assert experiment.table(json.loads((folder / "results.json").read_text())) == (folder / "table.md").read_text()


# Figure 1


def test_a_pair_that_swaps_its_classes_is_found(tmp_path):
    x = torch.cat([torch.rand(20, 2) * 0.2, 0.8 + torch.rand(20, 2) * 0.2])
    y = torch.arange(40) // 20
    digits = load("digits")
    data = dataclasses.replace(digits, domain=Box(0.0, 1.0))

    class Bumps(nn.Module):
        """Sure near either corner; between them unsure, and of the other corner's opinion from the middle on."""

        def forward(self, x):
            t = x.mean(dim=1, keepdim=True)
            return torch.cat([torch.exp(-8 * t**2), torch.exp(-8 * (1 - t) ** 2)], dim=1)

    job = Job(RunFolder(tmp_path), True)
    found = search_pair(Bumps(), nn.Identity(), Split(x, y), data, size=16, steps=50, step_sizes=(0.02,), job=job)
    assert found.steps > 0
    confidence, label = Bumps()(found.before).max(dim=1)
    assert bool((confidence > 0.9).all())
    assert label[0] != label[1]
    after = Bumps()(found.after).max(dim=1)
    if found.holds:
        assert bool((after.values < 0.3).all())
        assert after.indices.tolist() == label.flip(0).tolist()


def test_without_a_confident_pair_the_search_says_so(tmp_path):
    images = Split(torch.rand(10, 2), torch.arange(10) % 2)
    with pytest.raises(ValueError, match="expected images of two classes with a confidence above 90%"):
        search_pair(
            nn.Identity(),
            nn.Softmax(dim=1),
            images,
            load("digits"),
            size=4,
            steps=1,
            step_sizes=(1.0,),
            job=Job(RunFolder(tmp_path), True),
        )


# The engine


def unit(value, job):
    with (job.folder.path / "ran").open("a") as file:
        file.write("x")
    if value == "diverges":
        raise DivergedError("the loss became NaN")
    job.progress(0.5, "half")
    return [{"name": value, "process": os.getpid(), "threads": torch.get_num_threads()}]


def toy(*values):
    return Experiment(
        "toy",
        lambda _quick: [Unit(value, 1.0, partial(unit, value)) for value in values],
        lambda rows: f"{len(rows)} rows",
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_finished_units_are_kept_and_divergence_stops_no_other(jobs, tmp_path):
    with pytest.raises(DivergedError, match="became NaN"):
        reproduce([toy("a", "diverges", "b")], tmp_path, jobs=jobs)
    assert (tmp_path / "toy" / "table.md").read_text() == "2 rows"
    told = {}
    rows = reproduce(
        [toy("a", "b", "c")], tmp_path, jobs=jobs, report=lambda name, done, _: told.setdefault(name, []).append(done)
    )["toy"]
    assert told["toy/a"] == [1.0]
    assert told["toy/c"] == sorted(told["toy/c"])
    assert told["toy/c"][0] < 1 if jobs > 1 else told["toy/c"][0] == 0  # other processes are looked at now and then
    assert told["toy/c"][-1] == 1
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert json.loads((tmp_path / "toy" / "results.json").read_text()) == rows
    assert (tmp_path / "toy" / "a" / "ran").read_text() == "x"
    assert all((row["process"] == os.getpid()) == (jobs == 1) for row in rows)
    assert all(row["threads"] == 1 for row in rows)


def test_stopping_before_the_start_runs_nothing(tmp_path):
    with pytest.raises(Interrupted):
        reproduce([toy("a")], tmp_path, stop=lambda: True)
    assert not (tmp_path / "toy" / "a").exists()


def test_the_quick_and_the_full_version_do_not_mix(tmp_path):
    reproduce([toy("a")], tmp_path, quick=True)
    with pytest.raises(RunError, match="holds the quick version of 'toy': choose another --out"):
        reproduce([toy("a")], tmp_path)


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="exists and is not empty"):
        reproduce([toy("a")], tmp_path)
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["letter.txt"]


def test_no_jobs(tmp_path):
    with pytest.raises(ValueError, match="jobs: expected 1 or more processes, got 0"):
        reproduce([toy("a")], tmp_path, jobs=0)


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "tabel1", "--out", "r"], "experiment: expected one of"),
        (["reproduce", "path", "--out", "r", "--jobs", "0"], "jobs: expected 1 or more, got 0"),
        (["reproduce", "path"], "--out"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_tables_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "path", (toy("a", "b"),))
    assert run(["reproduce", "path", "--out", str(tmp_path), "--quick", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "# toy\n\n2 rows\n"
    assert run(["reproduce", "path", "--out", str(tmp_path), "--quick", "--jobs", "1", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["toy"]] == ["a", "b"]


def test_reproduction_ends_with_its_pages(tmp_path, monkeypatch, capsys):
    other = dataclasses.replace(toy("c"), name="other")
    monkeypatch.setitem(EXPERIMENTS, "path", (toy("a"),))
    monkeypatch.setitem(EXPERIMENTS, "all", (toy("a"), other))
    assert run(["reproduce", "path", "--out", str(tmp_path), "--quick", "--jobs", "1"]) == 0
    assert f"report: {tmp_path / 'toy' / 'report.html'}" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    assert run(["reproduce", "all", "--out", str(tmp_path), "--quick", "--jobs", "1"]) == 0
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().err
    command = f"cheaplip reproduce all --quick --out {tmp_path}"
    for name in ("toy", "other"):
        assert json.loads((tmp_path / name / "command.json").read_text())["command"] == command
        assert command in (tmp_path / name / "report.html").read_text()
        assert f'href="{name}/report.html"' in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_after_kill_9_the_same_command_gives_the_same_table(tmp_path):
    command = [sys.executable, "-m", "cheaplip", "reproduce", "path", "--quick", "--jobs", "2", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for seconds in (8, 15):
        process = subprocess.Popen(
            [*command, str(tmp_path / "cut")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(tmp_path / "cut")], check=True, capture_output=True)
    for name in ("results.json", "table.md"):
        assert (tmp_path / "cut/path" / name).read_text() == (tmp_path / "whole/path" / name).read_text()


@pytest.mark.slow
@pytest.mark.skipif("CHEAPLIP_DATA" not in os.environ, reason="real images: set CHEAPLIP_DATA")
def test_quick_tables_and_figure(tmp_path):
    for name in ("table1-mnist", "readme", "figure1", "table1-fashion-mnist"):
        assert run(["reproduce", name, "--quick", "--out", str(tmp_path)]) == 0
        assert json.loads((tmp_path / name / "results.json").read_text())
    assert Path(tmp_path / "figure1" / "picture.svg").is_file()
