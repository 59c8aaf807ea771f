"""Build the sdist and the wheel, install each extra alone in a fresh environment, and run the tests that belong to it.

python benchmarks/installs.py [--only core,cli] [--torch 2.6.0] [--folder FOLDER]

The wheel is built from the unpacked sdist. The tests are those of the sdist, run without the source, so that they
import the wheel. Needs hatchling. The versions of packages are those in constraints.txt; --torch replaces the one of
torch. Each environment is removed after its tests.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
CORE = (
    "activations any_model bracket certificate clip compile discrepancy distributed domain exact lazy lipschitz_bound "
    "lipsdp lower package pairs quotient reading spectral switching"
)
TESTS = {  # the names of the test files of each extra, without test_ and .py; "core" is the install without extras
    "core": CORE,
    "bounds": "exact bracket",
    "cli": (
        "cli bad_arrays csv data_functions download idx loading scaling runs last_version training methods models help "
        "robustness certify_cli checkpoints elsewhere regression"
    ),
    "images": "image_folder",
    "plots": "reproduce",
    "report": "report_page report_numbers report_sentences report_command report_regression",
    "tensorboard": "tracking",
    "mlflow": "tracking",
    "lightning": "lightning",
    "skorch": "skorch",
    "huggingface": "huggingface",
    "onnx": "export certificate",
}
TOOLS = ("pytest", "pytest-timeout", "hypothesis")


def main(only: str | None = None, torch: str | None = None, folder: Path | None = None) -> int:
    """Build, install and test, and print a table. The exit status is the number of rows that failed.

    Args:
        only: the extras to test, separated by commas. None: all.
        torch: a version of torch other than the pinned one.
        folder: where to put the environments. None: a temporary folder.
    """
    chosen = list(TESTS) if only is None else only.split(",")
    if unknown := sorted(set(chosen) - set(TESTS)):
        raise SystemExit(f"--only: expected some of {', '.join(TESTS)}, got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder.resolve()
        source, wheel = built(place)
        constraints = place / "constraints.txt"
        pins = (ROOT / "constraints.txt").read_text()
        constraints.write_text(
            pins if torch is None else re.sub(r"torch==\S+|numpy==\S+", "", pins) + f"torch=={torch}\n"
        )
        print(f"\nPython {platform.python_version()}, {wheel.name}, built from its sdist\n")
        print("| extra | torch | packages | megabytes | install, s | tests |\n| --- | --- | --- | --- | --- | --- |")
        return sum(not row(extra, place, source, wheel, constraints) for extra in chosen)


def built(place: Path) -> tuple[Path, Path]:
    """Build the sdist, unpack it, build the wheel from it, and remove its src; return the folder and the wheel."""
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(place / "dist"), "-t"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True)
    (archive,) = (place / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    source = place / archive.name.removesuffix(".tar.gz")
    subprocess.run([*build, "wheel"], cwd=source, check=True)
    (wheel,) = (place / "dist").glob("*.whl")
    shutil.rmtree(source / "src")
    return source, wheel


def row(extra: str, place: Path, source: Path, wheel: Path, constraints: Path) -> bool:
    """Install and test an extra, and print its line of the table, then what failed; return whether its tests passed."""
    home = place / f"venv-{extra}"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = str(home / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
    started = time.monotonic()
    # in one command, as a user would, so that no package installs another torch
    run([*install, f"cheaplip{'' if extra == 'core' else f'[{extra}]'} @ {wheel.as_uri()}"], place)
    seconds = time.monotonic() - started
    listed = run([python, "-m", "pip", "list", "--format", "freeze"], place).stdout.split()
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    run([python, "-c", "import cheaplip"], place)
    run([*install, *TOOLS], place)
    files = files_of(extra, source)
    tested = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files], source, check=False)
    output = tested.stdout + tested.stderr
    told = [output.strip().splitlines()[-1]]
    good = tested.returncode == 0
    if extra == "report":
        compared = run([str(home / "bin" / "cheaplip"), "compare", "digits", "--out", "digits"], place, check=False)
        done = compared.returncode == 0 and (place / "digits" / "report.html").is_file()
        told.append(f"compare digits {'done' if done else 'failed'}")
        good = good and done
    shutil.rmtree(home)
    torch = next(line.partition("==")[2] for line in listed if line.startswith("torch=="))
    cells = [extra, torch, str(len(listed)), f"{size / 1e6:.0f}", f"{seconds:.0f}", ", ".join(told)]
    print(f"| {' | '.join(cells)} |", flush=True)
    if not good:
        print(output)
    return good


def files_of(extra: str, source: Path) -> list[str]:
    """Find the test files of an extra in the folders of ``source/tests``, and return their paths below ``source``."""
    tests = {path.stem: str(path.relative_to(source)) for path in sorted((source / "tests").rglob("test_*.py"))}
    names = [f"test_{name}" for name in TESTS[extra].split()]
    if missing := [name for name in names if name not in tests]:
        raise SystemExit(
            f"{extra}: expected {', '.join(f'{name}.py' for name in missing)} in a folder of {source / 'tests'}: "
            "update TESTS in benchmarks/installs.py"
        )
    return [tests[name] for name in names]


def run(command: list[str], place: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in that folder, without packages from outside its environment."""
    alone = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=place, env=alone, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
