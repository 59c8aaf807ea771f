"""Time a training epoch of each method, interleaved on one machine: medians, and ratios to plain training.

python benchmarks/seconds.py [--data mnist] [--model mlp:200,80] [--repeats 5] [--methods plain,clip]
"""

import platform
import statistics
from dataclasses import replace

import torch
import tyro

from cheaplip.data import load
from cheaplip.runs.folder import versions
from cheaplip.training.config import TrainConfig
from cheaplip.training.loop import Training
from cheaplip.training.methods import METHODS


def main(data: str = "mnist", model: str = "mlp:200,80", repeats: int = 5, methods: str = ",".join(METHODS)) -> None:
    """Train one epoch of each method in turn, ``repeats`` times, and print the table."""
    loaded = load(data)
    base = TrainConfig(data=data, model=model, epochs=30, probe=0)  # every follows the length of the run
    trainings = {method: Training(replace(base, method=method), loaded) for method in methods.split(",")}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for repeat in range(repeats + 1):
        for method, training in trainings.items():
            training.run_epoch(lambda: False)
            if repeat > 0:  # the first epoch warms up
                seconds[method].append(training.seconds)
            training.end_epoch()
    print(f"{data}, {model}, batch {trainings['plain'].batch_size}, {torch.get_num_threads()} threads,")
    print(f"{platform.machine()}, median of {repeats} interleaved epochs, {versions()}\n")
    print("| method | s/epoch | times plain (median of pairs) |\n|---|---|---|")
    for method in trainings:
        ratios = [own / plain for own, plain in zip(seconds[method], seconds["plain"], strict=True)]
        print(f"| {method} | {statistics.median(seconds[method]):.2f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
