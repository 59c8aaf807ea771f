"""What each ingredient is worth: the recommended settings with one thing changed at a time.

python benchmarks/ablation.py --out results/ablation [--data mnist] [--epochs 10] [--seeds 0,1,2]

Prints a Markdown table; interrupted, the same command continues.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from cheaplip.experiments.compare import Attack, compare, summarise
from cheaplip.experiments.config import TrainConfig
from cheaplip.experiments.data import load
from cheaplip.experiments.runs import versions

COLUMNS = ("train", "test", "pgd", "lower", "tracking", "seconds_per_epoch")
TITLES = ("| changed | train % | test % | L2-PGD % | largest quotient found | tracking | s/epoch |", "|---" * 7 + "|")


def variants(base: TrainConfig) -> dict[str, TrainConfig]:
    """The recommended settings, and what happens without each of them."""
    paper = {"step": "quotient", "renew": 0, "aggregate": "max", "rule": "additive", "rate": 1e-3, "form": "separate"}
    changes: dict[str, dict[str, object]] = {
        "nothing (recommended)": {},
        "no tournament": {"renew": 0},
        "no grace for newcomers": {"grace": 0},
        "gradient step, not power step": {"step": "gradient"},
        "penalty: max, not softmax": {"aggregate": "max"},
        "penalty: mean, not softmax": {"aggregate": "mean"},
        "λ additive, not multiplicative": {"rule": "additive", "rate": 1e-3},
        "pairs in a pass of their own": {"form": "separate"},
        "8 pairs, not 32": {"pairs": 8},
        "128 pairs, not 32": {"pairs": 128},
        "every second step": {"every": 2},
        "all of the paper's choices": paper,
        "plain training": {"method": "plain"},
    }
    return {name: replace(base, **change) for name, change in changes.items()}


def main(
    out: Path, data: str = "mnist", epochs: int = 10, seeds: str = "0,1,2", target: float = 0.975, samples: int = 1000
) -> None:
    """Run and print the ablation."""
    loaded = load(data)
    attack = Attack("pgd", loaded.epsilon, samples)
    configs = variants(TrainConfig(data=data, epochs=epochs, target=target))
    rows = compare(configs, [int(seed) for seed in seeds.split(",")], loaded, out, attacks=[attack])
    print(f"{data}, {epochs} epochs, target {target}, seeds {seeds}, pgd@{loaded.epsilon} on {samples} test inputs;")
    print(f"mean ± standard deviation; {versions()}\n")
    print(*TITLES, sep="\n")
    for summary in summarise(rows):
        columns = {key.split("@")[0]: value for key, value in summary.columns.items()}
        print(f"| {summary.name} | " + " | ".join(cell(key, columns.get(key)) for key in COLUMNS) + " |")


def cell(key: str, column: tuple[float, float | None] | None) -> str:
    """Mean ± spread, accuracies in per cent."""
    if column is None:
        return "–"
    scale, form = (100, ".1f") if key in ("train", "test", "pgd") else (1, ".2f")
    mean, spread = column
    return f"{scale * mean:{form}}" + ("" if spread is None else f" ± {scale * spread:{form}}")


if __name__ == "__main__":
    tyro.cli(main)
