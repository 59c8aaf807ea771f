"""Folders of results as training and comparing leave them, made for the tests of the report."""

import json
import math

from cheaplip.runs.naming import run_name

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
    """A JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_run(folder, name, seed=0, shape=(1, 8, 8)):
    """The files of a run of three epochs, metrics.json excepted; its inputs have this shape."""
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


def write_comparison(folder):
    """A whole comparison: three methods, two seeds, all files."""
    names, seeds = ("plain", "clip", "adversarial"), (0, 1)
    write(folder / "results.json", [row(name, seed) for seed in seeds for name in names])
    write(folder / "command.json", {"command": "cheaplip compare mnist --out here"})
    for name in names:
        for seed in seeds:
            shape = (6,) if name == "adversarial" else (1, 8, 8)
            write_run(folder / run_name(name, seed), name, seed, shape)
    return folder


def own(path):
    """The text of a page without the plotting library."""
    page = path.read_text(encoding="utf-8")
    parts = page.split("<script>")
    return "<script>".join(part for part in parts if "plotly.js v" not in part[:200])
