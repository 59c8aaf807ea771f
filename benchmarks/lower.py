"""Compare the lower bound that a search finds with the exact constant, for networks whose constant is known.

python benchmarks/lower.py [--seeds 4] [--families "affine maps,one input"] [--out results/lower.json]

The exact constants are those of

- affine maps: the operator norm;
- networks with one input: the steepest segment between breakpoints;
- small ReLU networks: the steepest of all linear regions, which linear programs enumerate;
- orthogonal networks: 1;
- deep networks without negative weights: the norm of the product of the weights, where all neurons are active.

The second and third kind are tested without a domain and on a box. The search runs with 1, 3, 10, 30 and 100 steps; 100
is the default. The seconds are those of the shortest search that comes within one per cent. They include all of
`cheaplip.bracket`, with the cheapest upper bound.
"""

import json
import math
import platform
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import nn
from torch.nn.utils import parametrizations

from cheaplip import Box, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.runs.folder import versions

FAMILIES = ("affine maps", "one input", "small ReLU networks", "orthogonal networks", "nonnegative weights")
STEPS = (1, 3, 10, 30, 100)
ON_A_LINE = ([1, 20, 1], [1, 50, 1], [1, 12, 12, 2])
SMALL = ([2, 8, 3], [2, 12, 1], [2, 6, 5, 2], [2, 6, 6, 6, 2], [3, 8, 1], [3, 10, 3], [3, 6, 6, 2], [4, 8, 2])
DEPTHS = (2, 5, 10, 20)


class Case(NamedTuple):
    """A network whose constant is known."""

    family: str
    name: str
    model: nn.Module
    inputs: int
    norm: float
    domain: Box | None
    exact: float


def main(seeds: int = 4, families: str = ",".join(FAMILIES), out: Path | None = None) -> None:
    """Print a line for each family, and one for each network below 0.99; write the rows of all networks to ``out``."""
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions()}\n")
    rows = [measure(case) for case in cases(seeds, families.split(","))]
    print("| family | networks | least lower / exact | median | below 0.99 | s to 0.99, median | longest |")
    print("|---|---|---|---|---|---|---|")
    for family in dict.fromkeys(row["family"] for row in rows):
        some = [row for row in rows if row["family"] == family]
        ratios, times = [row["ratio"] for row in some], [row["seconds"] for row in some if row["seconds"] is not None]
        print(
            f"| {family} | {len(some)} | {min(ratios):.4f} | {statistics.median(ratios):.4f} | "
            f"{sum(ratio < 0.99 for ratio in ratios)} | {statistics.median(times or [math.nan]):.2f} | "
            f"{max(times or [math.nan]):.2f} |",
            flush=True,
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result = {"versions": versions(), "machine": platform.machine(), "threads": torch.get_num_threads()}
        out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


def measure(case: Case) -> dict:
    """Return lower / exact of the default search, and the seconds of the shortest search within one per cent."""
    seconds: float | None = None
    for steps in STEPS:
        b = bracket(case.model, case.domain, (case.inputs,), case.norm, method="norms", steps=steps)
        assert b.lower <= case.exact * (1 + 1e-9), (case.family, case.name, b.lower, case.exact)
        if seconds is None and b.lower >= 0.99 * case.exact:
            seconds = b.seconds
    ratio = b.lower / case.exact
    if ratio < 0.99:
        print(f"{case.family}, {case.name}: {b.lower:.6g} of {case.exact:.6g}, {ratio:.4f}\n", flush=True)
    return {"family": case.family, "name": case.name, "exact": case.exact, "ratio": ratio, "seconds": seconds}


def cases(seeds: int, families: Sequence[str] = FAMILIES) -> Iterator[Case]:
    """Make the networks of some families, with their exact constants."""
    for seed in range(seeds if "affine maps" in families else 0):
        for norm in (2, 1, math.inf):
            model = random_network([30, 20], seed)
            exact = float(torch.linalg.matrix_norm(model[0].weight.detach(), norm))
            yield Case("affine maps", f"norm {norm:g}, seed {seed}", model, 30, norm, None, exact)
    for family, shapes in (("one input", ON_A_LINE), ("small ReLU networks", SMALL)):
        for sizes in shapes if family in families else ():
            for seed in range(seeds):
                model = random_network(sizes, seed)
                chain = read(model, (sizes[0],))
                for domain in (None, Box(-1.0, 1.0)):
                    name = f"{'-'.join(map(str, sizes))}, seed {seed}, {'everywhere' if domain is None else domain!r}"
                    exact = exact_constant(chain, domain).value
                    if exact > 0:
                        yield Case(family, name, model, sizes[0], 2, domain, exact)
    for seed in range(seeds if "orthogonal networks" in families else 0):
        torch.manual_seed(seed)
        layers = [parametrizations.orthogonal(nn.Linear(20, 20, dtype=torch.float64)) for _ in range(5)]
        yield Case("orthogonal networks", f"seed {seed}", nn.Sequential(*layers).eval(), 20, 2, None, 1.0)
    for depth in DEPTHS if "nonnegative weights" in families else ():
        model = random_network([10, *[80] * (depth - 1), 5], depth, positive=True)
        product = model[0].weight.detach()
        for layer in model[2::2]:
            product = layer.weight.detach() @ product
        exact = float(torch.linalg.matrix_norm(product, 2))
        yield Case("nonnegative weights", f"depth {depth}", model, 10, 2, None, exact)


def random_network(sizes: list[int], seed: int, *, positive: bool = False) -> nn.Sequential:
    """Make a ReLU network.

    Weights and biases are normal with standard deviation 1/√n_in. If ``positive``, weights are uniform in [0, 1] and
    there are no biases.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after, bias=not positive).double()
        for parameter in linear.parameters():
            if positive:
                parameter.data = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            else:
                values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data = values / before**0.5
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


if __name__ == "__main__":
    tyro.cli(main)
