"""Compare the time of a training step, plain and with CLIP, in 1, 2 and 4 processes.

python benchmarks/scaling.py

The global batch and the total number of pairs stay the same. Each process runs on one thread, so use a machine with as
many cores as processes. Blocks of steps of plain training and CLIP alternate, and the medians over the blocks are
compared.
"""

import argparse
import itertools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from cheaplip import CLIP, Box, PairSet

FORMS = ("plain", "joint", "separate")


def seconds(rank: int, count: int, store: str, options: argparse.Namespace, results: multiprocessing.Queue) -> None:
    """Run the steps in one of ``count`` processes; the first one reports the seconds per step of each form."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    torch.manual_seed(0)
    widths = [options.inputs, *[options.width] * options.layers, 10]
    layers = [layer for n, m in itertools.pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    model = DistributedDataParallel(net) if count > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    x, y = torch.rand(options.batch // count, options.inputs), torch.randint(10, (options.batch // count,))
    clip = CLIP(PairSet(x, size=options.pairs // count, domain=Box(0.0, 1.0)), lam=0.1, every=options.every)
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for block in range(options.blocks + 1):
        for form in FORMS:
            started = time.perf_counter()
            for _ in range(options.steps):
                if form == "joint":
                    output, penalty = clip.joint(model, x)
                else:
                    output = model(x)
                    penalty = clip(model) if form == "separate" else 0.0
                loss = cross_entropy(output, y) + penalty
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if block:  # the first one warms up
                times[form].append((time.perf_counter() - started) / options.steps)
    if rank == 0:
        results.put({form: statistics.median(values) for form, values in times.items()})
    if count > 1:
        dist.destroy_process_group()


def measure(count: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds per step of each form, in ``count`` processes."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes = [
            context.Process(target=seconds, args=(rank, count, store, options, results)) for rank in range(count)
        ]
        for process in processes:
            process.start()
        found: dict[str, float] = results.get()
        for process in processes:
            process.join()
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="1,2,4", help="numbers of processes, separated by commas")
    parser.add_argument("--batch", type=int, default=512, help="inputs in the global batch")
    parser.add_argument("--pairs", type=int, default=32, help="total number of pairs")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=784, help="values in an input")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    parser.add_argument("--blocks", type=int, default=7)
    options = parser.parse_args()
    counts = [int(count) for count in options.processes.split(",")]
    for count in counts:
        if options.batch % count or options.pairs % count:
            parser.error(f"--batch and --pairs: expected multiples of {count} processes")
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, one thread a process")
    print(f"batch {options.batch}, {options.pairs} pairs, every {options.every}, width {options.width}\n")
    print("| processes | plain, ms/step | joint / plain | separate / plain | plain against the first row |")
    print("|---|---|---|---|---|")
    alone = None
    for count in counts:
        found = measure(count, options)
        plain = found["plain"]
        alone = plain if alone is None else alone
        ratios = " | ".join(f"{found[form] / plain:.2f}" for form in FORMS[1:])
        print(f"| {count} | {1000 * plain:.2f} | {ratios} | {plain / alone:.2f} |")


if __name__ == "__main__":
    main()
