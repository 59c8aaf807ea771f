"""Bound networks whose bounds others have published: both ends of the bracket beside the published figures.

python benchmarks/published.py [--networks DIR] [--seconds 60] [--only NAME] [--out results/published.json]

The folder --networks holds weights that are not part of this repository; each row says which weights it has:

- random_weights.mat: the example of LipSDP's repository, from its folder LipSDP/examples/saved_weights;
- 2c2f-mnist.npz: the arrays of the network 2c2f, trained on MNIST, in the order of its layers.

What is not there has the published architecture with other weights: trained here, on digits for 64-32-10 and on 10,000
images of MNIST for the others, or random where MNIST is not installed. Then the constants differ, and only the ratios
between bounds can be compared. All bounds are of 2 → 2, over all of space. --seconds limits the upper bound and the
search separately; the column *s upper* counts the upper bound alone. --only measures one network; its row replaces that
in --out.
"""

import json
import platform
import statistics
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from sizes import accuracy, he, mlp, trained
from torch import Tensor, nn

from cheaplip import bracket
from cheaplip.data import Data, load
from cheaplip.errors import DataError
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.runs.folder import versions
from cheaplip.training.models import MaxMin, build

COLUMNS = ("lower", "upper", "product", "seconds_upper", "seconds_lower")
HEADER = (
    "| network | weights | product | upper | method | lower | gap | s upper | published |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
PUBLISHED = {
    "2-10-30-20-2": "LipSDP 36.482",
    "64-32-10, mean of 10": "LipSDP 5.275, LipLT 6.190, product 7.228, sampled 3.990",
    "dense residual, 8 blocks": "GLipSDP 20.96 (70 s), product 56.2, sampled 12.5",
    "2c2f": "GLipSDP 6.72 (360 s), split in two 8.22",
    "LeNet-5, average pooling": "GLipSDP 12.25 (207 s), product 15.62",
    "MaxMin, 18 layers of 32": "LipSDP-NSR 17432, product 73405, sampled 267",
    "MaxMin, 18 layers of 128": "LipSDP-NSR 24271, product 74167",
}
"""Published figures of each network: other bounds, seconds in brackets, products of norms and sampled lower ends."""


class Subject(NamedTuple):
    """One network or several of one architecture, which weights they have, and inputs to start the search from."""

    models: list[nn.Module]
    weights: str
    shape: tuple[int, ...]
    x: Tensor | None = None


class Residual(nn.Module):
    """The block x + W₂ ReLU(W₁ x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*mlp([width, width, width], nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to (B, width)."""
        return x + self.branch(x)


def main(networks: Path | None = None, seconds: float = 60.0, only: str = "", out: Path | None = None) -> None:
    """Print the table, and write its rows to ``out``."""
    if only and only not in PUBLISHED:
        raise SystemExit(f"--only: expected one of {', '.join(map(repr, PUBLISHED))}, got {only!r}")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions()}\n\n{HEADER}")
    for name in [only] if only else PUBLISHED:
        subject = subject_of(name, networks)
        measured = [measure(model, subject.shape, subject.x, seconds) for model in subject.models]
        row = {"name": name, "weights": subject.weights, "seconds": seconds, **mean(measured)}
        print(line(row), flush=True)
        keep(row, out)


def keep(row: dict, out: Path | None) -> None:
    """Write a row to the file, in place of one with the same name, in the order of the table."""
    if out is None:
        return
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    rows = sorted(
        [old for old in rows if old["name"] != row["name"]] + [row], key=lambda r: [*PUBLISHED].index(r["name"])
    )
    result = {"versions": versions(), "machine": platform.machine(), "threads": torch.get_num_threads(), "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def measure(model: nn.Module, shape: tuple[int, ...], x: Tensor | None, seconds: float) -> dict:
    """Compute both ends for a network, and the product of its norms."""
    started = time.perf_counter()
    upper = upper_bound(read(model, shape), 2, seconds=seconds)
    passed = time.perf_counter() - started
    found = bracket(model, None, shape, x=x, method="norms", seconds=seconds)
    return {
        "lower": found.lower,
        "upper": upper.value,
        "product": found.upper,
        "method": upper.method,
        "seconds_upper": passed,
        "seconds_lower": found.seconds,
    }


def mean(rows: Iterable[dict]) -> dict:
    """Take the mean of each figure over networks, and name every method that gave a bound."""
    rows = list(rows)
    means = {column: statistics.mean(row[column] for row in rows) for column in COLUMNS}
    return {**means, "method": ", ".join(dict.fromkeys(row["method"] for row in rows))}


def line(row: dict) -> str:
    """Write a row as a line of the table."""
    return (
        f"| {row['name']} | {row['weights']} | {row['product']:.5g} | {row['upper']:.5g} | {row['method']} | "
        f"{row['lower']:.5g} | {row['upper'] / row['lower']:.3g} | {row['seconds_upper']:.1f} | "
        f"{PUBLISHED[row['name']]} |"
    )


def subject_of(name: str, networks: Path | None) -> Subject:
    """Load the weights of a network from the folder, or make some of the published architecture."""
    if name == "2-10-30-20-2":
        return lipsdp_example(networks)
    if name == "64-32-10, mean of 10":
        digits = load("digits")
        models = [fitted(nn.Sequential(*mlp([64, 32, 10], nn.ReLU)), digits, seed, epochs=20) for seed in range(10)]
        return Subject(models, f"other: {trained_on('digits', models, digits)}", (64,), digits.test.x.flatten(1))
    kept = None if networks is None else networks / "2c2f-mnist.npz"
    if name == "2c2f" and kept is not None and kept.is_file():
        model, data = build("2c2f", (1, 28, 28), 10, activation="relu"), mnist()
        put(model, [torch.from_numpy(array) for array in np.load(kept).values()])
        note = f"other: {kept.name}"
        return Subject([model.eval()], note, (1, 28, 28), None if data is None else data.test.x[:1000])
    return on_mnist(MAKERS[name]())


def lipsdp_example(networks: Path | None) -> Subject:
    """Read LipSDP's example, or draw weights as it does: uniform, in [0, 1] divided by √n_in."""
    sizes = [2, 10, 30, 20, 2]
    file = None if networks is None else networks / "random_weights.mat"
    if file is not None and file.is_file():
        from scipy.io import loadmat

        weights = [torch.from_numpy(weight) for weight in loadmat(file)["weights"].ravel()]
    else:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.rand(b, a, generator=generator, dtype=torch.float64) / a**0.5 for a, b in pairwise(sizes)]
    model = nn.Sequential(*mlp(sizes, nn.ReLU)).double()
    put(model, [tensor for weight in weights for tensor in (weight, weight.new_zeros(len(weight)))])
    theirs = file is not None and file.is_file()
    return Subject([model.eval()], "theirs" if theirs else "other: uniform, seed 0", (2,))


def put(model: nn.Module, arrays: list[Tensor]) -> None:
    """Copy arrays into the parameters of a model, in their order.

    Raises:
        ValueError: the shapes differ.
    """
    expected, got = [tuple(p.shape) for p in model.parameters()], [tuple(array.shape) for array in arrays]
    if expected != got:
        raise ValueError(f"weights: expected the shapes {expected}, got {got}")
    with torch.no_grad():
        for parameter, array in zip(model.parameters(), arrays, strict=True):
            parameter.copy_(array)


def mnist() -> Data | None:
    """Load MNIST, or return None where it is not installed."""
    try:
        return load("mnist")
    except DataError:
        return None


def on_mnist(model: nn.Module) -> Subject:
    """Train a model on MNIST, or leave it random where there is no MNIST."""
    data = mnist()
    if data is None:
        return Subject([model.eval()], "other: random, seed 0", (1, 28, 28))
    fitted(model, data, seed=0, epochs=3)
    return Subject([model], f"other: {trained_on('MNIST', [model], data)}", (1, 28, 28), data.test.x[:1000])


def fitted(model: nn.Module, data: Data, seed: int, epochs: int) -> nn.Module:
    """Train a model on up to 10,000 inputs; ``seed`` decides their order, and the weights of 64-32-10."""
    torch.manual_seed(seed)
    if data.train.x[0].numel() == 64:
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        trained(model, data.train.x.flatten(1), data.train.y, epochs)
    else:
        trained(model, data.train.x[:10_000], data.train.y[:10_000], epochs)
    return model.eval()


def trained_on(name: str, models: list[nn.Module], data: Data) -> str:
    """Say what models were trained on, with their mean test accuracy."""
    x = data.test.x.flatten(1) if data.train.x[0].numel() == 64 else data.test.x
    return f"{name}, test {statistics.mean(accuracy(model, x, data.test.y) for model in models):.1%}"


def residual() -> nn.Module:
    """Make a dense residual network: 784-64, eight blocks of width 64, 64-10. The widths are ours.

    The blocks' last layers start at an eighth of their usual size, which keeps the norm of the whole small.
    """
    torch.manual_seed(0)
    blocks = [Residual(64) for _ in range(8)]
    for block in blocks:
        with torch.no_grad():
            block.branch[-1].weight.div_(8)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), *blocks, nn.ReLU(), nn.Linear(64, 10))


def lenet() -> nn.Module:
    """Make LeNet-5 for 28 × 28 pixels, with ReLU and average pooling."""
    convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    return he(nn.Sequential(*convolutions, nn.AvgPool2d(2), nn.Flatten(), *mlp([400, 120, 84, 10], nn.ReLU)))


def maxmin(width: int) -> nn.Module:
    """Make a perceptron with 17 hidden layers and MaxMin, orthogonal at the start: it would not train otherwise."""
    model = nn.Sequential(nn.Flatten(), *mlp([784, *[width] * 17, 10], MaxMin))
    torch.manual_seed(0)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    return model


MAKERS = {
    "dense residual, 8 blocks": residual,
    "2c2f": lambda: he(build("2c2f", (1, 28, 28), 10, activation="relu")),
    "LeNet-5, average pooling": lenet,
    "MaxMin, 18 layers of 32": lambda: maxmin(32),
    "MaxMin, 18 layers of 128": lambda: maxmin(128),
}


if __name__ == "__main__":
    tyro.cli(main)
