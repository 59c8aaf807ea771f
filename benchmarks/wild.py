"""Train, report and certify on public data sets as they are: does every one of them end well?

python benchmarks/wild.py --out results/wild.md [--epochs 4] [--only iris,titanic] [--keep FOLDER]

Each data set goes through ``cheaplip train``, ``report`` and ``certify`` with no options but its name, its label and,
for a number to predict, ``--task regression``. ``--epochs`` shortens the training. The table at the end tells how each
of them ended; the exit status is 1 if a command failed, a page is missing, or a bracket is upside down.

The tables come with scikit-learn, or with packages that pip downloads. The images are those in ``$CHEAPLIP_DATA``:
``pneumoniamnist.npz``, and the first images of each class of ``cifar10-jpeg.tar.gz``, as folders. What is not there is
left out, and told.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import tyro
from sklearn import datasets

IMAGES = {"train": 200, "test": 40}  # of each class


R = "pydataset/resources.tar.gz!resources/rdata/csv"
SETS = f"""
iris | scikit-learn | iris | target
wine | scikit-learn | wine | target
breast cancer | scikit-learn | breast_cancer | target
digits | scikit-learn | digits | target
diabetes | scikit-learn | diabetes | target | regression
linnerud | scikit-learn | linnerud | Weight | regression
penguins | palmerpenguins | palmerpenguins/data/penguins.csv | species
car seats | islp | ISLP/data/Carseats.csv | Sales | regression
credit | islp | ISLP/data/Credit.csv | Balance | regression
default | islp | ISLP/data/Default.csv | default
caravan | islp | ISLP/data/Caravan.csv | Purchase
juice | islp | ISLP/data/OJ.csv | Purchase
boston | islp | ISLP/data/Boston.csv | medv | regression
grades | statsmodels | statsmodels/datasets/spector/spector.csv | GRADE
election | statsmodels | statsmodels/datasets/anes96/anes96.csv | vote
travel | statsmodels | statsmodels/datasets/modechoice/modechoice.csv | choice
titanic | pydataset | {R}/COUNT/titanic.csv | survived
biopsy | pydataset | {R}/MASS/biopsy.csv | class
glass | pydataset | {R}/MASS/fgl.csv | type
cars | pydataset | {R}/datasets/mtcars.csv | am
chicks | pydataset | {R}/datasets/chickwts.csv | feed
pneumonia | pydataset | {R}/KMsurv/pneumon.csv | hospital
pneumonia X-rays | pneumoniamnist.npz
cifar-10 as JPEG | cifar10-jpeg.tar.gz
"""  # name | package | table in it, or archive!table | label | task
EMPTY = [""] * 6


def table(package: str, file: str, downloads: Path) -> bytes:
    """Return a table as its package holds it; scikit-learn's is written from its data frame."""
    if package == "scikit-learn":
        return getattr(datasets, f"load_{file}")(as_frame=True).frame.to_csv(index=False).encode()
    folder = downloads / package
    if not folder.is_dir():
        folder.mkdir(parents=True)
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
        subprocess.run(words, capture_output=True, check=False)
    outer, _, inner = file.partition("!")
    for archive in folder.iterdir():
        content = member(archive.read_bytes(), outer)
        return member(content, inner) if inner else content
    raise FileNotFoundError(f"pip cannot download {package}")


def member(archive: bytes, name: str) -> bytes:
    """Return a file of a wheel, or of a tar archive, in which a folder may be around it."""
    if zipfile.is_zipfile(BytesIO(archive)):
        return zipfile.ZipFile(BytesIO(archive)).read(name)
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        return tar.extractfile(next(path for path in tar.getnames() if path.endswith(name))).read()


def images(name: str, place: Path) -> Path:
    """Return the images of that name in ``$CHEAPLIP_DATA``; of an archive, some are unpacked to ``place``."""
    path = Path(os.environ.get("CHEAPLIP_DATA", ".")).resolve() / name
    if not path.is_file():
        raise FileNotFoundError(f"no {name} in $CHEAPLIP_DATA")
    if path.suffix == ".npz":
        return path
    with tarfile.open(path) as tar:
        for entry in tar:
            file = Path(entry.name)
            if entry.isfile() and int(file.stem) < IMAGES[file.parts[-3]]:
                tar.extract(entry, place, filter="data")
    return next(place.iterdir())


def prepare(words: list[str], downloads: Path, place: Path) -> list[str]:
    """Bring a data set into its folder; return the words that name it to ``cheaplip train``."""
    place.mkdir(parents=True)
    if len(words) == 2:
        return [str(images(words[1], place))]
    _, package, file, label, *task = words
    (place / "table.csv").write_bytes(table(package, file, downloads))
    return ["table.csv", "--label", label, *(("--task", *task) if task else ())]


def run(data: list[str], epochs: int | None, place: Path) -> str:
    """Run the three commands in a folder; return "" if all is well, or else what went wrong."""
    short = [] if epochs is None else ["--epochs", str(epochs)]
    for words in (["train", *data, "--out", "run", *short], ["report", "run"], ["certify", "run"]):
        command = [sys.executable, "-m", "cheaplip", *words]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{words[0]}: {done.returncode}, {done.stderr.strip().splitlines()[-1]}"
    return "" if (place / "run" / "report.html").is_file() else "no page"


def figures(place: Path) -> list[str]:
    """Return the cells of a finished run: inputs, classes, target, test figure, bracket, and how it ended."""
    metrics, about = (json.loads((place / "run" / f"{file}.json").read_text()) for file in ("metrics", "data"))
    inputs, _, classes = about["description"][0].partition("; ")
    target = (metrics.get("aim") or {}).get("target")
    lower, upper = metrics["lipschitz"]["lower"], metrics["lipschitz"]["upper"]
    figure = metrics["accuracy" if "accuracy" in metrics else "rmse"]["test"]
    end = "one answer for all, and told so" if "constant_answer" in metrics else "well"
    numbers = ["none" if value is None else f"{value:.3g}" for value in (target, figure, lower, upper)]
    return [inputs, classes, *numbers, end if lower <= upper else "bracket upside down"]


def main(epochs: int | None = None, only: str | None = None, keep: Path | None = None, out: Path | None = None) -> int:
    """Run all data sets, or some; print the table, and write it to ``out``; ``keep`` is for the runs."""
    listed = [[word.strip() for word in line.split("|")] for line in SETS.strip().splitlines()]
    known = {words[0]: words for words in listed}
    names = list(known) if only is None else only.split(",")
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"only: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    well = True
    lines = ["| data | inputs | classes | target | test | lower | upper | end | seconds |", "|" + " --- |" * 9]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(prefix="cheaplip-wild-") as folder:
        for name in names:
            place, started = (keep or Path(folder)).resolve() / name.replace(" ", "-"), time.monotonic()
            try:
                data = prepare(known[name], Path(folder) / "downloads", place)
            except FileNotFoundError as absent:
                cells = [*EMPTY, f"left out: {absent}"]
            else:
                wrong = run(data, epochs, place)
                cells = [*EMPTY, wrong] if wrong else figures(place)
                well = well and not wrong and cells[-1] != "bracket upside down"
            lines.append(f"| {' | '.join([name, *cells])} | {time.monotonic() - started:.0f} |")
            print(lines[-1], flush=True)
            if out is not None:
                out.write_text("\n".join(lines) + "\n")
    return int(not well)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
