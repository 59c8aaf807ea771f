"""Measure what each part of the recommended CLIP settings contributes, by changing one setting at a time.

python benchmarks/ablation.py --out results/ablation [--data mnist] [--epochs 10] [--seeds 0,1,2]

Prints a Markdown table. After an interruption, the same command continues.
"""

from dataclasses import replace
from pathlib import Path

import tyro
from table import markdown

from cheaplip.data import load
from cheaplip.runs.folder import versions
from cheaplip.trained.compare import Attack, compare
from cheaplip.training.config import TrainConfig


def variants(base: TrainConfig) -> dict[str, TrainConfig]:
    """Return the recommended settings, and variants that change one of them, by name."""
    paper: dict[str, object] = {
        "step": "quotient",
        "renew": 0,
        "aggregate": "max",
        "rule": "additive",
        "rate": 1e-3,
        "form": "separate",
        "every": 1,
    }
    changes: dict[str, dict[str, object]] = {
        "recommended": {},
        "no tournament": {"renew": 0},
        "no grace": {"grace": 0},
        "climbs of half the length": {"step_size": 0.0125},
        "gradient step": {"step": "gradient"},
        "maximum": {"aggregate": "max"},
        "softmax": {"aggregate": "softmax"},
        "additive λ": {"rule": "additive", "rate": 1e-3},
        "own pass": {"form": "separate"},
        "8 pairs": {"pairs": 8},
        "32 pairs": {"pairs": 32},
        "every step": {"every": 1},
        "every twelfth step": {"every": 12},
        "the paper's choices": paper,
        "plain training": {"method": "plain"},
    }
    return {name: replace(base, **change) for name, change in changes.items()}


def main(
    out: Path, data: str = "mnist", epochs: int = 10, seeds: str = "0,1,2", target: float = 0.975, samples: int = 1000
) -> None:
    """Train and attack every variant, and print the table."""
    loaded = load(data)
    attack = Attack("pgd", loaded.epsilon, samples)
    configs = variants(TrainConfig(data=data, epochs=epochs, target=target))
    rows = compare(configs, [int(seed) for seed in seeds.split(",")], loaded, out, attacks=[attack])
    print(f"{data}, {epochs} epochs, target {target}, seeds {seeds}, pgd@{loaded.epsilon} on {samples} test inputs;")
    print(f"mean ± standard deviation; {versions()}\n")
    print(markdown(rows))


if __name__ == "__main__":
    tyro.cli(main)
