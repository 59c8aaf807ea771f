"""Compare the optimised LipSDP bound with the optimum from a solver, and with eclipse-nn: values and seconds.

python benchmarks/bounds.py [--repeats 3] [--solver-depth 5] [--seconds 30] [--neurons 25] [--out results/bounds.json]

The first table has twenty networks, random ones and ones trained on digits, that are small enough for Clarabel (through
cvxpy). All methods use one multiplier for each neuron. Times are medians of interleaved repeats; a program that takes
over ten seconds is solved once.

The second table needs eclipse-nn. It has networks of the family that eclipse-nn itself uses: weights uniform in [0, 1],
width 80. The SDP mode of eclipse-nn runs up to --solver-depth. Without negative weights the exact constant is known: it
is the norm of the product of the weights, because some inputs activate all neurons. A value below it is not a bound.
"""

import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cvxpy as cp
import torch
import tyro
from torch import Tensor, nn

from cheaplip.lipschitz.bounds.lipsdp import Slopes, certify, closed_form, optimise, product
from cheaplip.runs.folder import versions

try:
    from eclipse_nn import LipConstEstimator
except ImportError:
    LipConstEstimator = None

Weights = list[Tensor]

RANDOM = (
    [2, 10, 2], [2, 10, 30, 20, 2], [5, 20, 5], [5, 20, 20, 5], [10, 40, 5], [10, 20, 20, 10], [10, 15, 15, 15, 2],
    [20, 30, 10], [3, 8, 8, 8, 8, 3], [10, 10, 10, 10, 10, 10, 10], [1, 20, 20, 1], [30, 20, 10, 5], [10, 40, 40, 5],
    [10, 50, 50, 5], [20, 30, 30, 30, 30, 10],
)  # fmt: skip
TRAINED = ([64, 10, 10], [64, 20, 10], [64, 12, 12, 10], [64, 15, 15, 10], [64, 20, 20, 10])


def main(
    repeats: int = 3,
    depths: tuple[int, ...] = (2, 5, 10, 20, 50, 100),
    solver_depth: int = 5,
    seconds: float = 30.0,
    neurons: int | None = None,
    out: Path | None = None,
) -> None:
    """Print both tables, and write them to ``out``; the first one of networks with at most ``neurons`` hidden ones."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions()}\n")
    networks = [("random", sizes, gaussian(sizes, seed)) for seed, sizes in enumerate(RANDOM)]
    networks += [("digits", sizes, trained(sizes)) for sizes in TRAINED]
    networks = [network for network in networks if neurons is None or sum(network[1][1:-1]) <= neurons]
    print("| network | product | closed form | optimised | SDP | ratio | s closed | s optimised | s SDP | times |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = [solver_row(kind, sizes, weights, repeats) for kind, sizes, weights in networks]
    ratios = [row["ratio"] for row in rows]
    large = [row["seconds_sdp"] / row["seconds_optimised"] for row in rows if sum(row["sizes"][1:-1]) >= 100]
    print(f"\nratio to the optimum: median {statistics.median(ratios):.5f}, worst {max(ratios):.5f}")
    if large:
        print(f"times faster from 100 hidden neurons on: at least {min(large):.0f}\n")
    peers = []
    if LipConstEstimator is None:
        print("the second table needs eclipse-nn: pip install eclipse-nn")
    else:
        print("| depth | exact | product | ECLipsE-Fast | ECLipsE | optimised | s Fast | s ECLipsE | s optimised |")
        print("|---|---|---|---|---|---|---|---|---|")
        peers = [peer_row(depth, seed, depth <= solver_depth, seconds) for seed, depth in enumerate(depths)]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result = {"versions": versions(), "machine": platform.machine(), "optimum": rows, "eclipse": peers}
        out.write_text(json.dumps(result, indent=1) + "\n")


def gaussian(sizes: list[int], seed: int) -> Weights:
    """Draw normal weights with standard deviation 1/√n_in."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5 for a, b in pairwise(sizes)]


def trained(sizes: list[int], steps: int = 500) -> Weights:
    """Train a ReLU network on digits with ``steps`` steps of Adam, and return its weights."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return [layer.weight.detach().double() for layer in model if isinstance(layer, nn.Linear)]


def relu(weights: Weights) -> Slopes:
    """Return the slopes of ReLU, in [0, 1], for each hidden layer."""
    return [(torch.tensor(0.0), torch.tensor(1.0))] * (len(weights) - 1)


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """Call the function, and return its result and the seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def solver_row(kind: str, sizes: list[int], weights: Weights, repeats: int) -> dict:
    """Compare the bounds of one network with the solver's, and print its line of the table."""
    slopes = relu(weights)
    methods: dict[str, Callable[[], float]] = {
        "closed": lambda: certify(weights, slopes, closed_form(weights, slopes)).value,
        "optimised": lambda: certify(weights, slopes, optimise(weights, slopes)).value,
        "sdp": lambda: semidefinite_optimum(weights),
    }
    values: dict[str, float] = {}
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            if not (name == "sdp" and taken[name] and taken[name][0] > 10):
                values[name], passed = timed(method)
                taken[name].append(passed)
    row = {"kind": kind, "sizes": sizes, "product": product(weights, slopes), **values}
    row |= {"ratio": values["optimised"] / values["sdp"]}
    row |= {f"seconds_{name}": statistics.median(some) for name, some in taken.items()}
    print(
        f"| {kind} {'-'.join(map(str, sizes))} | {row['product']:.4f} | {row['closed']:.4f} | {row['optimised']:.4f} | "
        f"{row['sdp']:.4f} | {row['ratio']:.5f} | {row['seconds_closed']:.3f} | {row['seconds_optimised']:.2f} | "
        f"{row['seconds_sdp']:.2f} | {row['seconds_sdp'] / row['seconds_optimised']:.0f} |",
        flush=True,
    )
    return row


def semidefinite_optimum(weights: Weights) -> float:
    """Solve LipSDP-Neuron for slopes in [0, 1]: min λ such that diag(λ, 0) + Σ t_i (sector of neuron i) − YᵀY ≽ 0."""
    first = weights[0]
    if first.shape[1] > len(first):  # R of the QR decomposition has the same bound, and is smaller
        weights = [torch.linalg.qr(first.mT)[1].mT, *weights[1:]]
    n_in, n = weights[0].shape[1], sum(len(weight) for weight in weights[:-1])
    before = torch.zeros(n, n_in + n, dtype=torch.float64)
    row = column = 0
    for weight in weights[:-1]:
        before[row : row + len(weight), column : column + weight.shape[1]] = weight
        row, column = row + len(weight), column + weight.shape[1]
    after = torch.eye(n_in + n, dtype=torch.float64)[n_in:].numpy()
    output = torch.zeros(len(weights[-1]), n_in + n, dtype=torch.float64)
    output[:, column:] = weights[-1]
    t, square = cp.Variable(n, nonneg=True), cp.Variable()
    sector = after.T @ cp.diag(t) @ (after - before.numpy())
    inputs = torch.diag(torch.arange(n_in + n) < n_in).double().numpy()
    matrix = square * inputs + sector + sector.T - (output.mT @ output).numpy()
    cp.Problem(cp.Minimize(square), [matrix >> 0]).solve(solver=cp.CLARABEL)
    return math.sqrt(float(square.value))


def peer_row(depth: int, seed: int, solver: bool, seconds: float) -> dict:
    """Compare the bounds of one network with those of eclipse-nn, and print its line of the table."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [10, *[80] * (depth - 1), 5]
    weights = [torch.rand(b, a, generator=generator, dtype=torch.float64) for a, b in pairwise(sizes)]
    slopes = relu(weights)
    fast, seconds_fast = timed(lambda: eclipse(weights, "ECLipsE_Fast"))
    slow, seconds_slow = timed(lambda: eclipse(weights, "ECLipsE")) if solver else (math.nan, math.nan)
    best, seconds_best = timed(lambda: certify(weights, slopes, optimise(weights, slopes, seconds=seconds)).value)
    trivial = product(weights, slopes)
    active = weights[0]
    for weight in weights[1:]:
        active = weight @ active
    exact = float(torch.linalg.matrix_norm(active, 2))
    row = {"depth": depth, "exact": exact, "product": trivial, "fast": fast, "sdp": slow, "optimised": best}
    row |= {"seconds_fast": seconds_fast, "seconds_sdp": seconds_slow, "seconds_optimised": seconds_best}
    print("| " + " | ".join(f"{value:.6g}" for value in row.values()) + " |", flush=True)
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def eclipse(weights: Weights, method: str) -> float:
    """Return the bound of eclipse-nn."""
    return float(LipConstEstimator(weights=weights).estimate(method))


if __name__ == "__main__":
    tyro.cli(main)
