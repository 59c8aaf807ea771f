"""Run a small version of what is behind every table of the documentation: does each command still work?

python benchmarks/evidence.py [--minutes 28] [--only cost,lower] [--out FOLDER]

The figures are those of small networks, small data and few repeats, and say nothing; the full commands are in
docs/results.md and results/README.md. Each command is one line of the table at the end, with its seconds. Results go to
a temporary folder unless ``--out`` names one. A command that fails, or that the time does not allow, makes the exit
status 1.

Commands that need MNIST are left out where it is neither in ``$CHEAPLIP_DATA`` nor in the cache. Those that install
packages (``installs.py``, ``newcomer.py``) are not among them.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pooch
import tyro

HERE = Path(__file__).parent
LONGEST = 900.0  # seconds that a command may take


class Command(NamedTuple):
    """A command, and the page of docs/ that shows the figures of its full version.

    Attributes:
        arguments: ``{out}`` is the folder for results. The first one is ``cheaplip`` or a file of benchmarks/.
        images: whether it needs MNIST and Fashion-MNIST.
    """

    page: str
    arguments: str
    images: bool = False


COMMANDS = {
    "compare": Command(
        "results.md",
        "cheaplip compare digits --methods plain,weight,clip,adversarial --target 0.9 --epochs 3 --search 16 --probe 4 "
        "--attacks noise,pgd-sign,pgd,autoattack --samples 50 --out {out}/compare",
    ),
    "table": Command("results.md", "table.py {out}/compare/results.json"),
    "picture": Command("results.md", "picture.py {out}/compare.svg {out}/compare"),
    "scale-free": Command(
        "scale-free.md",
        "cheaplip compare digits --methods scale-free --epochs 3 --search 16 --probe 4 --attacks noise,pgd "
        "--samples 50 --out {out}/scale-free",
    ),
    "steering": Command(
        "scale-free.md",
        "steering.py --data digits --targets 0.9 --epochs 3 --epsilon 0.3 --samples 20 --out {out}/steering",
    ),
    "certified": Command(
        "results.md",
        "cheaplip compare digits --methods certified --epochs 3 --search 16 --probe 4 --certify 0.1,0.2 --attacks pgd "
        "--epsilon 0.1,0.2 --samples 50 --out {out}/certified",
    ),
    "certificates": Command(
        "results.md",
        "certificates.py --data digits --model mlp:20 --target 0.9 --seeds 0 --epochs 2 --epsilon 0.1 --radii 0.1,0.2 "
        "--margins 0.3 --hkr-margins 0.2 --samples 10 --tries 2 --search 8 --probe 0 --out {out}/certificates",
    ),
    "local": Command(
        "trust.md",
        "local.py {out}/compare/clip-seed0 --samples 20 --epsilon 0.1,0.2 --seconds 1 --tries 2 --out {out}/local.json",
    ),
    "frontier": Command(
        "command-line.md",
        "cheaplip frontier digits --give-up 1%,3% --epochs 3 --search 16 --probe 0 --jobs 1 --out {out}/frontier",
    ),
    "ablation": Command(
        "ablation.md", "ablation.py --data digits --epochs 2 --target 0.9 --seeds 0 --samples 50 --out {out}/ablation"
    ),
    "seconds": Command("results.md", "seconds.py --data digits --model mlp:20 --repeats 1"),
    "operations": Command("cost.md", "operations.py --pairs 8 --batch 16"),
    "cost": Command(
        "cost.md",
        "cost.py --models mlp,cnn --batches 16 --every 1,4 --pairs 8 --repeats 2 --seconds 0.02 --out {out}/cost.json",
    ),
    "gpu": Command("cost.md", "gpu.py --quick --device cpu --minutes 3 --out {out}/gpu.json"),
    "scaling": Command("scaling.md", "scaling.py --processes 1,2 --batch 32 --pairs 8 --width 32 --steps 3 --blocks 2"),
    "bounds": Command(
        "bounds.md",
        "bounds.py --neurons 25 --repeats 1 --depths 2 --solver-depth 2 --seconds 2 --out {out}/bounds.json",
    ),
    "lower": Command(
        "bounds.md", 'lower.py --seeds 1 --families "affine maps,orthogonal networks" --out {out}/lower.json'
    ),
    "rival-bounds": Command("bounds.md", "rival_bounds.py --seconds 1 --out {out}/rival-bounds.json"),
    "published": Command(
        "bounds.md",
        'published.py --only "64-32-10, mean of 10" --seconds 5 --out {out}/published.json',
    ),
    "sizes": Command("bounds.md", "sizes.py --parts step --seconds 1 --repeats 2 --out {out}/sizes.json"),
    "soundness": Command("trust.md", "soundness.py --models 200 --out {out}/soundness"),
    "edits": Command("trust.md", "edits.py --edits 20 --out {out}/edits.json"),
    "tabular": Command("tabular.md", "tabular.py --seeds 0 --out {out}/tabular"),
    "wild": Command("first-table.md", "wild.py --epochs 2 --only wine,diabetes --out {out}/wild.md"),
    "imports": Command("results.md", "imports.py --times 3"),
    "reproduce": Command(
        "reproduction.md", "cheaplip reproduce all --quick --jobs 2 --out {out}/reproduction", images=True
    ),
}


class Outcome(NamedTuple):
    name: str
    page: str
    status: str
    seconds: float


def words(command: Command, out: Path) -> list[str]:
    """Return the words of a command, as a process is given them."""
    first, *rest = shlex.split(command.arguments.format(out=out))
    return [sys.executable, *(["-m", "cheaplip"] if first == "cheaplip" else [str(HERE / first)]), *rest]


def run(command: Command, out: Path, seconds: float) -> tuple[str, str]:
    """Run a command, and return its status and, if it failed, the end of what it said."""
    # Most benchmarks run a network that is too small for more than one thread.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    try:
        done = subprocess.run(
            words(command, out), capture_output=True, text=True, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"over {seconds:.0f} s", ""
    if done.returncode == 0:
        return "done", ""
    return f"failed ({done.returncode})", "\n".join((done.stdout + done.stderr).splitlines()[-20:])


def images_there() -> bool:
    """Tell whether MNIST and Fashion-MNIST are there, so that nothing has to be downloaded."""
    data, cache = os.environ.get("CHEAPLIP_DATA"), pooch.os_cache("cheaplip")
    folders = [*([Path(data)] if data else []), Path(cache)]
    return any(all(any((folder / name).glob("train-*")) for name in ("mnist", "fashion-mnist")) for folder in folders)


def run_all(chosen: dict[str, Command], out: Path, minutes: float, *, images: bool) -> list[Outcome]:
    """Run the commands one after the other, and print what fails."""
    outcomes = []
    end = time.monotonic() + 60 * minutes
    for name, command in chosen.items():
        started = time.monotonic()
        if command.images and not images:
            status, said = "left out: no MNIST", ""
        elif started > end:
            status, said = "no time left", ""
        else:
            status, said = run(command, out, min(LONGEST, end - started + 1))
        outcomes.append(Outcome(name, command.page, status, time.monotonic() - started))
        print(f"{name}: {status}, {outcomes[-1].seconds:.0f} s", flush=True)
        if said:
            print(f"  {' '.join(words(command, out))}\n{said}", file=sys.stderr, flush=True)
    return outcomes


def markdown(outcomes: list[Outcome]) -> str:
    lines = ["| command | page | outcome | s |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {page} | {status} | {seconds:.0f} |" for name, page, status, seconds in outcomes]
    return "\n".join(lines)


def main(minutes: float = 28.0, only: str | None = None, out: Path | None = None) -> int:
    """Run the small versions, and print a table of them."""
    names = list(COMMANDS) if only is None else only.split(",")
    if unknown := [name for name in names if name not in COMMANDS]:
        raise SystemExit(f"only: expected some of {', '.join(COMMANDS)}, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="cheaplip-evidence-") as folder:
        place = Path(folder) if out is None else out
        place.mkdir(parents=True, exist_ok=True)
        outcomes = run_all({name: COMMANDS[name] for name in names}, place, minutes, images=images_there())
    print(f"\n{markdown(outcomes)}")
    return int(any(status != "done" and not status.startswith("left out") for _, _, status, _ in outcomes))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
