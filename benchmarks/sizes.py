"""Measure both ends of the bracket for networks of different sizes: gap, seconds and memory; and the cost of training.

python benchmarks/sizes.py [--parts mnist,widths,depths,convolutions,step] [--seconds 20] [--out results/sizes.json]

Some networks are trained here, on MNIST and on 10,000 images of Fashion-MNIST. The others have random weights, scaled
as in He et al. 2015. Each network has its own process. Its memory is the peak of this process during the upper bound,
above the memory before. *seconds* limits the search for the lower bound and the optimisation of the upper one
separately. The part *step* times one call of LipschitzBound with its backward pass against a plain training step with
batch 256, in turns.
"""

import json
import math
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from cost import cnn, resnet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip import Box, LipschitzBound, bracket
from cheaplip.data import load
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.runs.folder import versions

WIDTHS = (50, 100, 200, 500, 1000, 2000)
DEPTHS = (2, 5, 10, 20, 50, 100)
PARTS = "mnist,widths,depths,convolutions,step"


class Subject(NamedTuple):
    """A network to bracket, with its domain and the inputs from which the search starts, if any."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    domain: Box | None = None
    x: Tensor | None = None


def main(parts: str = PARTS, seconds: float = 20.0, repeats: int = 15, out: Path | None = None) -> None:
    """Print the tables, and add their rows to ``out``."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions()}\n")
    for part in parts.split(","):
        if part == "step":
            keep(out, {"step": step_ratio(repeats)}, [])
            continue
        print("| network | parameters | product | upper | method | lower | gap | s upper | s lower | MB |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for subject in SUBJECTS[part]():
            keep(out, {}, [in_its_own_process(subject, seconds) | {"part": part}])
        print()


def keep(out: Path | None, figures: dict, rows: list[dict]) -> None:
    """Add figures and rows to the file; a row replaces one with the same name."""
    if out is None:
        return
    result = json.loads(out.read_text()) if out.exists() else {"rows": []}
    result |= {"versions": versions(), "machine": platform.machine(), "threads": torch.get_num_threads(), **figures}
    names = [row["name"] for row in rows]
    result["rows"] = [row for row in result["rows"] if row["name"] not in names] + rows
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def in_its_own_process(subject: Subject, seconds: float) -> dict:
    """Measure a network in a new process, and print its line of the table."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(measure, (subject, seconds, torch.get_num_threads()))
    print(
        f"| {row['name']} | {row['parameters']} | {row['product']:.4g} | {row['upper']:.4g} | {row['method']} | "
        f"{row['lower']:.4g} | {row['gap']:.3g} | {row['seconds_upper']:.1f} | {row['seconds_lower']:.1f} | "
        f"{row['megabytes']:.0f} |",
        flush=True,
    )
    return row


def measure(subject: Subject, seconds: float, threads: int) -> dict:
    """Compute both ends for one network, and return its row."""
    torch.set_num_threads(threads)
    name, model, shape, domain, x = subject
    small = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    upper_bound(read(small, (2,)), 2, method="lipsdp")  # loads what torch loads on first use
    before = peak_megabytes(start=True)
    started = time.perf_counter()
    chain = read(model, shape)
    upper = upper_bound(chain, 2, domain, seconds=seconds)
    seconds_upper = time.perf_counter() - started
    megabytes = peak_megabytes() - before
    found = bracket(model, domain, shape, x=x, method="norms", seconds=seconds)
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "product": found.upper,
        "upper": upper.value,
        "method": upper.method,
        "lower": found.lower,
        "gap": upper.value / found.lower if found.lower > 0 else math.inf,
        "seconds_upper": seconds_upper,
        "seconds_lower": found.seconds,
        "megabytes": megabytes,
    }


def peak_megabytes(*, start: bool = False) -> float:
    """Return the peak memory of this process since the last call with ``start``. Linux only."""
    if start:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def mnist() -> Iterator[Subject]:
    """Yield 784-200-80-10 after three epochs of Adam, without a domain and on the box of the data."""
    data = load("mnist")
    for activation in (nn.ReLU, nn.Sigmoid):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), *mlp([784, 200, 80, 10], activation))
        trained(model, data.train.x, data.train.y, epochs=3)
        name = f"784-200-80-10, {activation.__name__}, test {accuracy(model, data.test.x, data.test.y):.1%}"
        yield Subject(name, model, data.shape, None, data.train.x[:2000])
        if activation is nn.ReLU:
            yield Subject(f"{name}, in [0, 1]", model, data.shape, Box(0.0, 1.0), data.train.x[:2000])


def widths() -> Iterator[Subject]:
    """Yield random networks with two hidden layers of growing width."""
    for width in WIDTHS:
        yield Subject(f"784-{width}-{width}-10", he(nn.Sequential(*mlp([784, width, width, 10], nn.ReLU))), (784,))


def depths() -> Iterator[Subject]:
    """Yield random networks of width 50 and growing depth."""
    for depth in DEPTHS:
        layers = mlp([50] * depth + [10], nn.ReLU)
        yield Subject(f"width 50, depth {depth}", he(nn.Sequential(*layers)), (50,))


def convolutions() -> Iterator[Subject]:
    """Yield Madry's CNN, random and trained, and a random ResNet-18 without batch norm."""
    yield Subject("Madry's CNN, random", he(cnn()), (1, 28, 28), Box(0.0, 1.0))
    data = load("fashion-mnist")
    torch.manual_seed(0)
    model = cnn()
    trained(model, data.train.x[:10_000], data.train.y[:10_000], epochs=2)
    name = f"Madry's CNN, Fashion-MNIST, test {accuracy(model, data.test.x, data.test.y):.1%}"
    yield Subject(name, model, data.shape, data.domain, data.train.x[:1000])
    torch.manual_seed(0)
    yield Subject("ResNet-18, random", resnet(), (3, 32, 32), Box(0.0, 1.0))


SUBJECTS: dict[str, Callable[[], Iterator[Subject]]] = {
    "mnist": mnist,
    "widths": widths,
    "depths": depths,
    "convolutions": convolutions,
}


def mlp(sizes: list[int], activation: type[nn.Module]) -> list[nn.Module]:
    """Return linear layers with activations between them."""
    return [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())][:-1]


def he(model: nn.Module) -> nn.Module:
    """Draw weights that preserve the size of ReLU activations (He et al. 2015), with seed 0."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return model


def trained(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """Train in place with Adam and batches of 128."""
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of inputs that are classified correctly."""
    return statistics.mean(
        float((model(some).argmax(dim=1) == labels).float().mean())
        for some, labels in zip(x.split(1000), y.split(1000), strict=True)
    )


def step_ratio(repeats: int) -> dict:
    """Time a plain step, and the bound with its backward pass, in milliseconds: medians over blocks of twenty."""
    torch.manual_seed(0)
    model = nn.Sequential(*mlp([784, 200, 80, 10], nn.ReLU))
    x, y = torch.rand(256, 784), torch.randint(10, (256,))
    bound = LipschitzBound(model)
    optimizer = torch.optim.SGD([*model.parameters(), *bound.parameters()], lr=1e-3, momentum=0.9)

    def plain() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    def call() -> None:
        bound().backward()

    def turn(function: Callable[[], None]) -> float:
        started = time.perf_counter()
        for _ in range(20):
            function()
        return 1e3 * (time.perf_counter() - started) / 20

    turns = [(turn(plain), turn(call)) for _ in range(repeats + 1)][1:]  # the first warms up
    ratios = [b / a for a, b in turns]
    step = {
        "plain": statistics.median(a for a, _ in turns),
        "bound": statistics.median(b for _, b in turns),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }
    print(
        f"\n784-200-80-10, batch 256: a plain step {step['plain']:.2f} ms, LipschitzBound with its backward "
        f"{step['bound']:.2f} ms, {step['ratio']:.2f} times ({step['least']:.2f} … {step['most']:.2f})"
    )
    return step


if __name__ == "__main__":
    tyro.cli(main)
