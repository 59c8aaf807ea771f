"""Time the three commands of docs/first-table.md in a fresh environment, from pip install to the report.

python benchmarks/newcomer.py [--folder FOLDER]

The table is scikit-learn's breast-cancer data as a CSV file, with columns in different units. The time of pip depends
on the network.
"""

import json
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
with open("mine.csv", "w", newline="") as file:
    rows = [[*row, data.target_names[kind]] for row, kind in zip(data.data, data.target)]
    csv.writer(file).writerows([[*data.feature_names, "diagnosis"], *rows])
"""
STEPS = {
    "cheaplip train": ("train", "mine.csv", "--label", "diagnosis", "--out", "runs/mine"),
    "cheaplip bracket": ("bracket", "runs/mine"),
}


def main(folder: Path | None = None) -> None:
    """Run the commands in ``folder``, or in a temporary folder, and print their seconds and the result."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder.resolve()
        place.mkdir(parents=True, exist_ok=True)
        seconds = take(place)
        metrics = json.loads((place / "runs" / "mine" / "metrics.json").read_text())
        page = (place / "runs" / "mine" / "report.html").stat().st_size
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| command | seconds |\n| --- | --- |")
    for name, value in seconds.items():
        print(f"| `{name}` | {value:.0f} |")
    print(f"| together | {sum(seconds.values()):.0f} |")
    lower, upper = metrics["lipschitz"]["lower"], metrics["lipschitz"]["upper"]
    print(f"\ntest accuracy {metrics['accuracy']['test']:.3f}, {lower:.3g} <= Lip(f) <= {upper:.3g}")
    print(f"report.html, {page / 1e6:.1f} MB")


def take(place: Path) -> dict[str, float]:
    """Run the commands in a folder, and return the seconds of each."""
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    python, cheaplip = (str(place / "venv" / "bin" / name) for name in ("python", "cheaplip"))
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    seconds = {"pip install": timed([*install, f"{ROOT}[report]"], place)}
    timed([python, "-c", TABLE], place)
    return seconds | {name: timed([cheaplip, *arguments], place) for name, arguments in STEPS.items()}


def timed(arguments: list[str], place: Path) -> float:
    """Run a command in that folder, without packages from outside its environment; return its seconds."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.monotonic()
    subprocess.run(arguments, check=True, cwd=place, env=alone)
    return time.monotonic() - started


if __name__ == "__main__":
    tyro.cli(main)
