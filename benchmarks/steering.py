"""Steer each method to several training accuracies, and measure how near it stays and what the pairs see.

python benchmarks/steering.py --out results/steering [--data mnist,fashion-mnist] [--targets 0.85,0.9,0.95,0.98]

Prints a Markdown table for each data set. After an interruption, the same command continues.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import tyro

from cheaplip.data import load
from cheaplip.runs.folder import versions
from cheaplip.runs.naming import run_name
from cheaplip.trained.compare import Attack, compare
from cheaplip.training.config import TrainConfig

COLUMNS = ("method", "target", "train %", "points off target", "tracking", "test %", "largest quotient found")


def last_third(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``history.jsonl`` for the last third of a run's epochs."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return lines[-max(1, len(lines) // 3) :]


def figures(rows: list[dict[str, Any]], target: float, folders: list[Path], epsilons: list[float]) -> list[str]:
    """Return the cells of a table's row, means and standard deviations over seeds.

    ``points off target`` is the mean over the last third's epochs of the distance between training accuracy and target;
    ``tracking`` the mean of the pairs' largest quotient divided by the largest that a search finds.
    """
    histories = [last_third(folder) for folder in folders]
    off = [statistics.mean(100 * abs(line["train_accuracy"] - target) for line in lines) for lines in histories]
    tracked = [statistics.mean(line["tracking"] for line in lines) for lines in histories]
    train = [statistics.mean(100 * line["train_accuracy"] for line in lines) for lines in histories]
    attacked = [[100 * row["robust"][f"autoattack@{epsilon}"] for row in rows] for epsilon in epsilons]
    return [
        rows[0]["method"],
        f"{100 * target:g} %",
        spread(train, ".1f"),
        spread(off, ".2f"),
        spread(tracked, ".2f"),
        spread([100 * row["accuracy"]["test"] for row in rows], ".1f"),
        spread([row["lipschitz"]["lower"] for row in rows], ".2f"),
        *(spread(values, ".1f") for values in attacked),
    ]


def spread(values: list[float], form: str) -> str:
    """Write mean ± standard deviation."""
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form}}"


def main(
    out: Path,
    data: str = "mnist,fashion-mnist",
    targets: str = "0.85,0.9,0.95,0.98",
    methods: str = "scale-free,clip",
    epsilon: str = "1.0,2.0,3.0",
    seeds: str = "0",
    epochs: int = 30,
    samples: int = 1000,
) -> None:
    """Train and attack every method at every target, and print the tables."""
    epsilons, numbers = [float(value) for value in epsilon.split(",")], [int(seed) for seed in seeds.split(",")]
    for name in data.split(","):
        loaded = load(name)
        configs = {
            f"{method} {100 * float(target):g} %": TrainConfig(
                data=name, method=method, target=float(target), epochs=epochs, probe=16
            )
            for method in methods.split(",")
            for target in targets.split(",")
        }
        attacks = [Attack("autoattack", value, samples) for value in epsilons]
        folder = out / name
        rows = compare(configs, numbers, loaded, folder, attacks=attacks)
        print(f"\n{name}, {epochs} epochs, seeds {seeds}, AutoAttack on {samples} test inputs; {versions()}\n")
        head = [*COLUMNS, *(f"autoattack@{value} %" for value in epsilons)]
        print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
        for label, config in configs.items():
            own = [row for row in rows if row["name"] == label]
            folders = [folder / run_name(label, row["seed"]) for row in own]
            assert config.named_target is not None
            print("| " + " | ".join(figures(own, config.named_target, folders, epsilons)) + " |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
