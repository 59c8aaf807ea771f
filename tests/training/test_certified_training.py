"""Certified training: its defaults, what it certifies, how it resumes; figures that contradict each other."""

import dataclasses
import math
import re

import pytest
import torch

from cheaplip.data import load
from cheaplip.errors import ConfigError, Interrupted
from cheaplip.runs.checkpoints import unpack
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.certify import certify
from cheaplip.trained.compare import Attack, compare, summarise
from cheaplip.trained.evaluate import evaluate
from cheaplip.trained.loading import load_run
from cheaplip.training.certified_csv import read_radii
from cheaplip.training.config import TrainConfig
from cheaplip.training.consistency import ContradictionError, check_accuracies
from cheaplip.training.run import train
from training_runs import CUBED, stop_after, timeless

QUICK = TrainConfig(
    data="digits", epochs=3, model="mlp:24,12", activation="relu", target=0.9, pairs=8, probe=2, search=8
)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_defaults_follow_the_method():
    certified, clip = TrainConfig(data="digits", method="certified"), TrainConfig(data="digits")
    assert (certified.resolved_epochs, certified.resolved_activation, certified.resolved_lr) == (20, "relu", 3e-3)
    assert (clip.resolved_epochs, clip.resolved_activation, clip.resolved_lr) == (30, "sigmoid", 0.6)
    own = dataclasses.replace(certified, epochs=7, activation="tanh", lr=1e-3)
    assert (own.resolved_epochs, own.resolved_activation, own.resolved_lr) == (7, "tanh", 1e-3)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf], ids=str)
def test_the_margin_is_positive(margin):
    with pytest.raises(ConfigError, match=re.escape(f"margin: expected a positive number, got {margin}")):
        dataclasses.replace(QUICK, method="certified", margin=margin)


def test_a_model_without_a_bound_is_refused_before_anything_is_written(digits, tmp_path, monkeypatch):
    (tmp_path / "cubed.py").write_text(CUBED)
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(QUICK, method="certified", model="cubed:net")
    with pytest.raises(ValueError, match="'2'"):
        train(config, digits, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["certified", "clip+certified"])
def test_an_interrupted_run_continues_bit_for_bit(method, digits, tmp_path):
    config = dataclasses.replace(QUICK, method=method, epochs=2)
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train(config, digits, whole)
    with pytest.raises(Interrupted):
        train(config, digits, cut, stop=stop_after(50))  # in the second epoch
    train(config, digits, cut, resume=True)
    assert cut.read_bytes("model.safetensors") == whole.read_bytes("model.safetensors")
    assert timeless(cut.history()) == timeless(whole.history())
    assert all(line["lower"] <= line["bound"] * (1 + 1e-4) for line in whole.history())
    assert all(("lam" in line) == (method == "clip+certified") for line in whole.history())
    states = [[*unpack(f.load_checkpoint())["multipliers"]["bound"].values()] for f in (cut, whole)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_certified_training_certifies_more_and_nothing_beats_the_certificate(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("cheaplip.trained.compare._SECONDS", 0.3)
    config = dataclasses.replace(QUICK, method="certified", probe=0, epochs=10)
    attacks = [Attack("pgd", 0.2, 12), Attack("autoattack", 0.2, 12)]
    rows = compare({"certified": config}, [0], digits, tmp_path, attacks=attacks, certify_at=[0.1, 0.2])
    (row,), folder = rows, RunFolder(tmp_path / "certified-seed0")
    check_accuracies(folder.read_json("metrics.json"), read_radii(folder.read_text("certified.csv")))
    first = [line.split(",") for line in (folder.path / "certified.csv").read_text().splitlines()[1:13]]
    proved = sum(label == guess and float(radius) > 0.2 for _, label, guess, radius in first) / 12
    clean = sum(label == guess for _, label, guess, _ in first) / 12
    assert proved <= row["robust"]["autoattack@0.2"] <= row["robust"]["pgd@0.2"] <= clean
    assert row["certified"]["0.2"] <= row["certified"]["0.1"] <= row["accuracy"]["test"]
    assert row["lipschitz"]["lower"] <= row["lipschitz"]["upper"]
    assert summarise(rows)[0].columns["certified@0.2"] == (row["certified"]["0.2"], None)
    plain = RunFolder(tmp_path / "plain")
    train(dataclasses.replace(QUICK, method="plain", probe=0), digits, plain)
    proved_plain = certify(load_run(plain, digits), epsilons=[0.2], seconds=0.3)["certified"]["0.2"]
    assert row["certified"]["0.2"] > proved_plain + 0.2


def folder_with(path, radii, **robust):
    folder = RunFolder(path)
    lines = [f"{i},{int(right)},1,{radius}" for i, (right, radius) in enumerate(radii)]
    folder.write_text("certified.csv", "\n".join(["index,label,prediction,radius", *lines]) + "\n")
    names = {name.replace("_", "@"): value for name, value in robust.items()}
    return {"robust": names, "robust_samples": dict.fromkeys(names, len(radii))}, folder


@pytest.mark.parametrize(
    ("robust", "message"),
    [
        ({"pgd_0.5": 0.25}, "certified@0.5 = 0.5000 is above pgd@0.5 = 0.2500"),
        ({"autoattack_0.5": 0.25}, "certified@0.5 = 0.5000 is above autoattack@0.5 = 0.2500"),
        ({"pgd_1.0": 1.0}, None),
        ({"pgd_2.0": 0.0, "autoattack_2.0": 0.5}, "autoattack@2.0 = 0.5000 is above pgd@2.0 = 0.0000"),
        ({"pgd_0.5": 0.5, "autoattack_0.5": 0.5, "noise_0.5": 0.0}, None),
        ({"fmn_0.5": 0.25}, "certified@0.5 = 0.5000 is above fmn@0.5 = 0.2500"),
        ({"blur_0.5": 0.0, "brightness_0.5": 0.0}, None),
    ],
    ids=["pgd", "autoattack", "above-clean-by-one", "attacks", "fine", "fmn", "corruptions"],
)
def test_figures_that_contradict_each_other(robust, message, tmp_path):
    metrics, folder = folder_with(tmp_path, [(True, 0.6), (True, 0.7), (True, 0.2), (False, 3.0)], **robust)
    if message is None:
        check_accuracies(metrics, read_radii(folder.read_text("certified.csv")))
    else:
        with pytest.raises(ContradictionError, match=re.escape(message)):
            check_accuracies(metrics, read_radii(folder.read_text("certified.csv")))


def test_the_order_is_checked_whenever_both_are_computed(digits, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    train(dataclasses.replace(QUICK, method="certified", margin=0.6), digits, folder)
    certify(load_run(folder, digits), epsilons=[0.05], seconds=0.3)
    lines = (folder.path / "certified.csv").read_text().splitlines()
    boasted = [lines[0], *(",".join([*line.split(",")[:3], "9.0"]) for line in lines[1:])]
    folder.write_text("certified.csv", "\n".join(boasted) + "\n")
    with pytest.raises(ContradictionError, match=r"certified@2\.0 = .* is above pgd@2\.0"):
        evaluate(folder, attacks=["pgd"], epsilons=[2.0], samples=20, data=digits)
    assert "pgd@2.0" not in folder.read_json("metrics.json")["robust"]
