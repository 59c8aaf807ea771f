"""Compare the time of `import cheaplip` with that of `import torch`, in fresh processes.

python benchmarks/imports.py [--times 15]
"""

import os
import platform
import statistics
import subprocess
import sys
import time

import torch
import tyro


def main(times: int = 15) -> None:
    """Print both medians and their ratio. The first import of each only warms up the disk cache, and does not count."""
    names = ("torch", "cheaplip")
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(times + 1):
        for name in names:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
            taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
    version = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"{version}: medians of {times} processes")
    for name in names:
        print(f"import {name}: {medians[name]:.2f} s")
    print(f"ratio: {medians['cheaplip'] / medians['torch']:.3f}")


if __name__ == "__main__":
    tyro.cli(main)
