"""docs/first-table.md, step by step in a fresh environment: seconds from pip install to a report on one's own table.

python benchmarks/newcomer.py [--folder FOLDER]

The table is scikit-learn's breast-cancer, scaled to [0, 1], as a CSV file. What pip takes depends on the network, and
on its cache.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
TABLE = """
import csv
from sklearn.datasets import load_breast_cancer
data = load_breast_cancer()
x = (data.data - data.data.min(0)) / (data.data.max(0) - data.data.min(0))
with open("mine.csv", "w", newline="") as file:
    rows = [[*row, data.target_names[kind]] for row, kind in zip(x.round(4), data.target)]
    csv.writer(file).writerows([[*data.feature_names, "diagnosis"], *rows])
"""


def main(folder: Path | None = None) -> None:
    """Take the path and print the seconds; the folder, unless given, is a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder.resolve()
        place.mkdir(parents=True, exist_ok=True)
        seconds = take(place)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name, value in seconds.items():
        print(f"{value:6.1f} s  {name}")


def take(place: Path) -> dict[str, float]:
    """Seconds of each step."""
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    python, cheaplip = (str(place / "venv" / "bin" / name) for name in ("python", "cheaplip"))
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    seconds = {"pip install": timed([*install, f"{ROOT}[cli,report]"], place)}
    timed([python, "-c", TABLE], place)
    for name, *arguments in (
        ("train", "mine.csv", "--label", "diagnosis", "--out", "runs/mine"),
        ("bracket", "runs/mine"),
        ("report", "runs/mine"),
    ):
        seconds[f"cheaplip {name}"] = timed([cheaplip, name, *arguments], place)
    return seconds


def timed(arguments: list[str], place: Path) -> float:
    """Run a command there, with what is installed there alone."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.monotonic()
    subprocess.run(arguments, check=True, cwd=place, env=alone)
    return time.monotonic() - started


if __name__ == "__main__":
    tyro.cli(main)
