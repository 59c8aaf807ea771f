"""TensorBoard and MLflow: each epoch is recorded once, whatever happens to the training."""

import importlib.util
import json
import subprocess
import sys
import time

import pytest
import torch

from cheaplip import Box, CheaplipWarning
from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import DivergedError, Interrupted, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.tracking import MLflow, TensorBoard, pictures
from cheaplip.trained.compare import compare
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train

TINY = {"epochs": 3, "model": "mlp:16", "activation": "tanh", "probe": 1, "search": 8, "batch_size": 200, "held_out": 0}
TARGET = {**TINY, "target": 0.9}  # named, so that no plain network is trained first
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


class Notes:
    """Notes the calls that a training makes."""

    def __init__(self):
        self.calls = []

    def start(self, config, first):
        self.calls.append(("start", config["model"], first))

    def epoch(self, line):
        self.calls.append(("epoch", line["epoch"]))

    def finish(self, metrics, images):
        self.calls.append(("finish", metrics["epochs"], sorted(images)))

    def stop(self, ending):
        self.calls.append(("stop", ending))


WHOLE = [
    ("start", "mlp:16", 1),
    *[("epoch", number) for number in (1, 2, 3)],
    ("finish", 3, ["difference", "u", "v"]),
    ("stop", "finished"),
]


def test_a_tracker_is_called_through_the_whole_training(digits, tmp_path):
    notes = Notes()
    train(TrainConfig(data="digits", **TINY), digits, RunFolder(tmp_path / "run"), trackers=[notes])
    assert notes.calls == WHOLE
    train(TrainConfig(data="digits", **TINY), digits, RunFolder(tmp_path / "run"), resume=True, trackers=[notes])
    assert notes.calls == WHOLE  # a finished run makes no calls


def test_an_interrupted_training_goes_on_where_it_was(digits, tmp_path):
    notes, steps = Notes(), iter(range(8))
    config, folder = TrainConfig(data="digits", **TARGET), RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(config, digits, folder, stop=lambda: next(steps, None) is None, trackers=[notes])
    assert notes.calls == [("start", "mlp:16", 1), ("epoch", 1), ("stop", "interrupted")]
    again = Notes()
    train(config, digits, folder, resume=True, trackers=[again])
    assert again.calls == [("start", "mlp:16", 2), *WHOLE[2:]]


def test_the_plain_network_that_is_trained_first_is_part_of_the_tracked_training(digits, tmp_path):
    notes, config, folder = Notes(), TrainConfig(data="digits", **TINY), RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(config, digits, folder, stop=lambda: True, trackers=[notes])
    assert notes.calls == [("start", "mlp:16", 1), ("stop", "interrupted")]
    again = Notes()
    train(config, digits, folder, resume=True, trackers=[again])
    assert again.calls == WHOLE


def test_a_training_that_fails_is_recorded_as_failed(digits, tmp_path):
    notes = Notes()
    config = TrainConfig(data="digits", **{**TINY, "method": "plain", "lr": 1e30})
    with pytest.raises(DivergedError):
        train(config, digits, RunFolder(tmp_path / "run"), trackers=[notes])
    assert notes.calls[-1] == ("stop", "failed")


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((1, 8, 8), ["u", "v", "difference"]),
        ((3, 4, 5), ["u", "v", "difference"]),
        ((8, 8), ["u", "v", "difference"]),
        ((30,), []),
        ((1, 2, 3), []),
        ((2, 8, 8), []),
    ],
    ids=str,
)
def test_inputs_that_look_like_images_are_shown_as_such(shape, names):
    u, v = torch.full(shape, -1.0), torch.full(shape, 3.0)
    shown = pictures(u, v, Box(-1.0, 3.0))
    assert list(shown) == names
    for image, value in zip(shown.values(), (0.0, 1.0, 1.0), strict=False):
        assert image.dim() == 3
        assert bool((image == value).all())


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def needs_tensorboard():
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard", "ignore::DeprecationWarning:google")
def test_tensorboard_holds_each_epoch_once_the_final_figures_and_the_pair(tmp_path):
    needs_tensorboard()
    out = tmp_path / "run"
    assert run(["train", "digits", "--out", str(out), "--tensorboard", *OPTIONS, "--no-measure"]) == 0
    found = events(out / "tensorboard")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for name in ("loss", "train_accuracy", "validation_accuracy", "lam", "largest", "lower"):
        got = [(event.step, event.value) for event in found.Scalars(f"epoch/{name}")]
        assert got == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in history]
    metrics = json.loads((out / "metrics.json").read_text())
    (test,) = found.Scalars("final/accuracy/test")
    assert (test.step, test.value) == (3, pytest.approx(metrics["accuracy"]["test"]))
    assert found.Scalars("final/lipschitz/lower")[0].value == pytest.approx(metrics["lipschitz"]["lower"])
    assert found.Tags()["images"] == [f"steepest pair/{name}" for name in ("u", "v", "difference")]
    assert found.Images("steepest pair/u")[0].width == 8
    assert "--tensorboard" not in json.loads((out / "command.json").read_text())["command"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard", "ignore::DeprecationWarning:google")
def test_two_processes_write_one_event_file(tmp_path):
    needs_tensorboard()
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cheaplip"]
    arguments = ["train", "digits", "--out", str(out), "--tensorboard", *OPTIONS, "--device=cpu"]
    subprocess.run([*command, *arguments], check=True, capture_output=True)
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert [event.step for event in events(out / "tensorboard").Scalars("epoch/loss")] == [1, 2, 3]


def test_only_the_leading_process_calls_its_trackers(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("cheaplip.training.run.leads", lambda: False)
    notes, config = Notes(), TrainConfig(data="digits", **{**TARGET, "epochs": 1})
    assert train(config, digits, RunFolder(tmp_path / "run"), trackers=[notes]) == {}
    assert notes.calls == []


def test_each_run_of_a_comparison_has_trackers_of_its_own(digits, tmp_path):
    by_run = {}

    def trackers(folder):
        return [by_run.setdefault(folder.path.name, Notes())]

    configs = {"plain": TrainConfig(data="digits", **{**TINY, "method": "plain", "epochs": 1})}
    compare(configs, [0, 1], digits, tmp_path / "all", attacks=[], trackers=trackers)
    assert list(by_run) == ["plain-seed0", "plain-seed1"]
    assert all([what for what, *_ in notes.calls] == ["start", "epoch", "finish", "stop"] for notes in by_run.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard", "ignore::DeprecationWarning:google")
def test_epochs_that_a_crash_lost_are_recorded_once(digits, tmp_path):
    needs_tensorboard()
    config, folder = TrainConfig(data="digits", **TINY, checkpoint_every=3), RunFolder(tmp_path / "run")
    lines = iter([{}, {}])
    with pytest.raises(StopIteration):
        train(config, digits, folder, on_epoch=lambda *_: next(lines), trackers=[TensorBoard(tmp_path / "events")])
    assert [event.step for event in events(tmp_path / "events").Scalars("epoch/loss")] == [1, 2]
    time.sleep(1.1)  # event files are told apart by the second they are made in
    train(config, digits, folder, resume=True, trackers=[TensorBoard(tmp_path / "events")])
    assert [event.step for event in events(tmp_path / "events").Scalars("epoch/loss")] == [1, 2, 3]


@pytest.fixture
def store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return str(tmp_path / "store")


def runs_of(store):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("digits")
    return client, client.search_runs([experiment.experiment_id])


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_mlflow_holds_options_epochs_final_figures_and_the_pair(store, tmp_path):
    out = tmp_path / "first"
    assert run(["train", "digits", "--out", str(out), "--mlflow", store, *OPTIONS, "--no-measure"]) == 0
    client, (found,) = runs_of(store)
    assert (found.info.run_name, found.info.status) == ("first", "FINISHED")
    assert (found.data.params["model"], found.data.params["epochs"]) == ("mlp:16", "3")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for name in ("loss", "train_accuracy", "validation_accuracy", "lam", "largest", "lower"):
        got = [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, f"epoch/{name}")]
        assert sorted(got) == [(line["epoch"], pytest.approx(line[name])) for line in history]
    metrics = json.loads((out / "metrics.json").read_text())
    assert found.data.metrics["final/accuracy/test"] == pytest.approx(metrics["accuracy"]["test"])
    shown = [file.path for file in client.list_artifacts(found.info.run_id, "steepest pair")]
    assert shown == [f"steepest pair/{name}.png" for name in ("difference", "u", "v")]


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_a_continued_training_goes_on_in_the_same_mlflow_run(store, digits, tmp_path):
    config, folder, steps = TrainConfig(data="digits", **TARGET), RunFolder(tmp_path / "run"), iter(range(8))
    with pytest.raises(Interrupted):
        train(
            config,
            digits,
            folder,
            stop=lambda: next(steps, None) is None,
            trackers=[MLflow(store, folder.path)],
        )
    _, (found,) = runs_of(store)
    assert found.info.status == "KILLED"
    train(config, digits, folder, resume=True, trackers=[MLflow(store, folder.path)])
    client, (again,) = runs_of(store)
    assert (again.info.run_id, again.info.status) == (found.info.run_id, "FINISHED")
    steps = [metric.step for metric in client.get_metric_history(again.info.run_id, "epoch/loss")]
    assert sorted(steps) == [1, 2, 3]


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
def test_a_store_that_is_lost_is_a_warning_and_the_training_goes_on(store, digits, tmp_path):
    tracker = MLflow(store, tmp_path / "run")

    def lose(model, line):
        tracker.run = "gone"
        return {}

    config, folder = TrainConfig(data="digits", **TINY), RunFolder(tmp_path / "run")
    with pytest.warns(CheaplipWarning, match=r"mlflow: tracking to .* ended, the training goes on: ") as caught:
        metrics = train(config, digits, folder, on_epoch=lose, trackers=[tracker])
    assert metrics["epochs"] == 3
    assert len([warning for warning in caught if warning.category is CheaplipWarning]) == 1


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow")
@pytest.mark.parametrize("uri", ["nowhere://store", "https://"])
def test_a_store_that_cannot_be_used_is_one_line_and_exit_2(uri, store, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run(["train", "digits", "--out", str(tmp_path / "r"), "--mlflow", uri, *OPTIONS]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"mlflow: cannot track to {uri}: " in err
    assert not (tmp_path / "r" / "reference").exists()  # nothing was trained


@pytest.mark.parametrize(
    ("option", "package", "extra"),
    [
        (["--tensorboard"], "tensorboard", "tensorboard"),
        (["--mlflow", "x"], "mlflow", "mlflow"),
        (["--mlflow", "x"], "PIL", "mlflow"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_missing_package_is_one_line_before_anything_is_made(
    command, option, package, extra, tmp_path, capsys, monkeypatch
):
    there = importlib.util.find_spec
    for module in ("mlflow", "tensorboard"):
        monkeypatch.setattr(
            f"cheaplip.tracking.{module}.find_spec",
            lambda name: None if name == package else there("json"),
        )
    assert run([command, "digits", "--out", str(tmp_path / "r"), *option]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"cheaplip: {option[0]} needs {package}: pip install 'cheaplip[{extra}]'\n")
    assert not (tmp_path / "r").exists()


def test_nowhere_to_write_events_is_an_error_of_the_run(digits, tmp_path):
    needs_tensorboard()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write to .*file/tensorboard"):
        TensorBoard(tmp_path / "file" / "tensorboard").start({}, 1)
