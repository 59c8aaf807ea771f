"""Compare the upper bounds that others have published with the package's own: values and seconds.

python benchmarks/rival_bounds.py [--seconds 20] [--out results/rival-bounds.json]

The networks are random ones and ones trained on digits, dense and convolutional, with seed 0. Each bound is for all of
space, rounded upwards. CLEVER, in the last column, is an estimate: it is drawn from the slopes at random inputs, and is
no bound.
"""

import json
import math
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from cheaplip import bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.runs.folder import versions

METHODS = ("autolip", "zou", "combettes-pesquet", "seqlip", "lipsdp")


def dense(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Make a perceptron of these widths."""
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def convolutional() -> nn.Sequential:
    """Make a network of two convolutions for 8 × 8 images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], bool]] = {
    "random 64-12-10": (lambda: dense(64, 12, 10), False),
    "random 64-50-50-10": (lambda: dense(64, 50, 50, 10), False),
    "random 64-50-50-50-50-10": (lambda: dense(64, 50, 50, 50, 50, 10), False),
    "random convolutions": (convolutional, False),
    "digits 64-12-10": (lambda: dense(64, 12, 10), True),
    "digits 64-12-10, sigmoid": (lambda: dense(64, 12, 10, activation=nn.Sigmoid), True),
    "digits 64-50-50-10": (lambda: dense(64, 50, 50, 10), True),
    "digits convolutions": (convolutional, True),
}


def main(seconds: float = 20.0, out: Path | None = None) -> None:
    """Print the table, and write it to ``out``."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions()}\n")
    print("| network | lower | " + " | ".join(METHODS) + " | seconds of each | CLEVER, an estimate |")
    print("|---" * (len(METHODS) + 4) + "|")
    rows = [row(name, make, learn, seconds) for name, (make, learn) in NETWORKS.items()]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result = {"versions": versions(), "machine": platform.machine(), "networks": rows}
        out.write_text(json.dumps(result, indent=1) + "\n")


def digits() -> tuple[Tensor, Tensor]:
    """Return the images (N, 1, 8, 8) in [0, 1] and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(data.target)


def train(model: nn.Module, steps: int = 500) -> None:
    """Train a network on digits with ``steps`` steps of Adam."""
    x, y = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


def row(name: str, make: Callable[[], nn.Sequential], learn: bool, seconds: float) -> dict:
    """Bound one network by every method, and print its line of the table."""
    torch.manual_seed(0)
    model = make()
    if learn:
        train(model)
    model.eval()
    chain = read(model, (1, 8, 8))
    values, taken = {}, {}
    for method in METHODS:
        start = time.perf_counter()
        values[method] = upper_bound(chain, 2, None, method, seconds=seconds).value
        taken[method] = time.perf_counter() - start
    found = bracket(model, shape=(1, 8, 8), method="clever", seconds=seconds)
    estimate = math.nan if found.estimate is None else found.estimate.value
    numbers = " | ".join(f"{values[method]:.4g}" for method in METHODS)
    times = ", ".join(f"{taken[method]:.2f}" for method in METHODS)
    print(f"| {name} | {found.lower:.4g} | {numbers} | {times} | {estimate:.4g} |", flush=True)
    return {"network": name, "lower": found.lower, "upper": values, "seconds": taken, "clever": estimate}


if __name__ == "__main__":
    tyro.cli(main)
