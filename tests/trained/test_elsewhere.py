"""Models from elsewhere: bracketed and certified as a run's model is."""

import csv
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.lipschitz.bracket import bracket
from cheaplip.runs.weights import load_program

SOURCE = """
import torch
from torch import nn

class Cube(nn.Module):
    def forward(self, x):
        return x ** 3

def net(shape, outputs):
    layers = [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, outputs)]
    return nn.Sequential(*layers)

def squared(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs), Cube())
"""
BATCH = ({0: torch.export.Dim("batch")},)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)]
        model = nn.Sequential(*layers)
        model(torch.rand(32, 1, 8, 8))  # statistics that are not a new layer's
    return model.eval()


def exported(model, path, x=None, **options):
    x = torch.rand(3, 1, 8, 8) if x is None else x
    torch.export.save(torch.export.export(model, (x,), **options), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "elsewhere.py").write_text(SOURCE)
    model = network()
    save_file(model.state_dict(), folder / "net.safetensors")
    torch.save(model.state_dict(), folder / "net.pt")
    torch.save(model, folder / "pickled.pt")
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "checkpoint.pt")
    torch.save({"1.weight": torch.ones(2)}, folder / "other.pt")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    (folder / "broken.pt2").write_bytes(b"nothing")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), folder / "squared.pt")
    exported(model, folder / "net.pt2", dynamic_shapes=BATCH)
    exported(model, folder / "fixed.pt2")
    exported(nn.Linear(5, 10), folder / "shape.pt2", torch.rand(3, 5), dynamic_shapes=BATCH)
    exported(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), folder / "three.pt2", dynamic_shapes=BATCH)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


FUNCTION = ["elsewhere:net", "--weights"]
WAYS = {
    "safetensors": [*FUNCTION, "net.safetensors"],
    "state dict": [*FUNCTION, "net.pt"],
    "pt2": ["net.pt2"],
}


@pytest.fixture(scope="module")
def expected():
    data = load("digits")
    return bracket(network(), data.domain, x=data.train.x, seconds=0.2)


@pytest.mark.parametrize("way", WAYS)
def test_the_bracket_is_that_of_the_model_in_evaluation_mode(way, here, expected, capsys):
    assert run(["bracket", *WAYS[way], "--data", "digits", "--seconds", "0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == expected.method
    assert found["upper"] == pytest.approx(expected.upper, rel=1e-3)
    assert 0.5 * expected.lower < found["lower"] <= found["upper"]


def test_the_certificate_is_kept_in_a_new_folder(here, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["certify", *WAYS["pt2"], "--data", "digits", "--epsilon", "0.001,1", "--seconds", "0.2"]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader((out / "certified.csv").read_text().splitlines()))
    right = [row["label"] == row["prediction"] for row in rows]
    assert metrics["accuracy"]["test"] == pytest.approx(sum(right) / len(rows))
    proved = sum(ok and float(row["radius"]) > 0.001 for ok, row in zip(right, rows, strict=True)) / len(rows)
    assert metrics["certified"]["0.001"] == pytest.approx(proved)
    assert proved > 0
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert run([*arguments, "--out", str(out)]) == 2
    assert f"output folder {out} exists and is not empty: choose another --out" in capsys.readouterr().err


def test_a_program_equals_its_model_and_can_be_converted(here):
    x = torch.rand(7, 1, 8, 8)
    program = load_program(here / "net.pt2", (1, 8, 8))
    torch.testing.assert_close(program(x), network()(x))
    torch.testing.assert_close(program.double()(x.double()), network().double()(x.double()))


def test_without_a_folder_the_certificate_is_only_printed(here, capsys):
    before = sorted(here.iterdir())
    assert run(["certify", "net.pt2", "--data", "digits", "--epsilon", "0.001", "--seconds", "0.2"]) == 0
    out, err = capsys.readouterr()
    assert "certified, ε = 0.001" in out
    assert "radii:" not in err
    assert sorted(here.iterdir()) == before


def test_what_cannot_be_bounded_has_a_reason_and_no_certificate(here, capsys):
    model = ["elsewhere:squared", "--weights", "squared.pt", "--data", "digits", "--seconds", "0.2"]
    assert run(["bracket", *model, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["upper"], found["method"]) == (None, "none")
    assert found["reason"].startswith("layer '2' (Cube, aten.pow.Tensor_Scalar) is not supported")
    assert run(["certify", *model, "--epsilon", "1"]) == 2
    assert "nothing is certified, for the bracket has no finite upper bound" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["elsewhere:net"], "data: expected the inputs that elsewhere:net is about, such as digits or a file"),
        (["elsewhere:net", "--data", "digits"], "weights: expected the file that holds those of elsewhere:net"),
        ([*FUNCTION, "net.pt"], "data: expected the inputs that elsewhere:net is about"),
        ([*FUNCTION, "no.pt", "--data", "digits"], "weights: no such file no.pt"),
        ([*FUNCTION, "pickled.pt", "--data", "digits"], "and nothing pickled: Weights only load failed"),
        ([*FUNCTION, "checkpoint.pt", "--data", "digits"], "got a dictionary of epoch, state_dict in checkpoint.pt"),
        ([*FUNCTION, "other.pt", "--data", "digits"], "other.pt does not fit the model: Error(s) in loading"),
        ([*FUNCTION, "broken.safetensors", "--data", "digits"], "weights: cannot read broken.safetensors: expected"),
        (["elsewhere:no", "--weights", "net.pt", "--data", "digits"], "cannot import 'elsewhere:no'"),
        (["net.pt2"], "data: expected the inputs that net.pt2 is about"),
        (["net.pt2", "--weights", "net.pt", "--data", "digits"], "weights: a .pt2 file holds its own, got net.pt"),
        (["no.pt2", "--data", "digits"], "no such file no.pt2"),
        (["broken.pt2", "--data", "digits"], "broken.pt2: expected a program written by torch.export.save"),
        (
            ["fixed.pt2", "--data", "digits"],
            "a program that takes any number of inputs, got one for 3: export it",
        ),
        (["shape.pt2", "--data", "digits"], "expected a program with one input (B, 1, 8, 8), got inputs ("),
        (["three.pt2", "--data", "digits"], "expected outputs (B, 10), one logit per class, got (2, 3)"),
        (["net.pt2", "--data", "nowhere"], "unknown data 'nowhere'"),
        (["nowhere"], "no metrics.json in nowhere"),
        (["nowhere", "--data", "digits"], "data: a run's folder has its own, got digits for nowhere: leave --data out"),
        (["nowhere", "--out", "r"], "out: a run's folder has its own, got r for nowhere: leave --out out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, here, capsys):
    assert run(["bracket", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
