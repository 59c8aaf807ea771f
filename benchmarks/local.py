"""Compare certificates from one bound for the whole domain with those from bounds in the ball around each input.

cheaplip train mnist --method clip --target 0.98 --epochs 30 --no-measure --out runs/local
python benchmarks/local.py runs/local --samples 1000 --epsilon 0.25,0.5,1 --out results/local.json

The first ``--samples`` test inputs of a run are certified both ways. To test the certificates, each certified input is
moved by 0.999999 of its local radius, in ``--tries`` random directions and by PGD. Its class must never change.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from cheaplip.certificate import certified_predictions
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.trained.certify import bracket_for_certificate
from cheaplip.trained.loading import load_run

try:
    from benchmarks.certificates import withstood
except ModuleNotFoundError:
    from certificates import withstood


def main(
    run: Annotated[Path, tyro.conf.Positional],
    samples: int = 1000,
    epsilon: str = "0.25,0.5,1",
    seconds: float = 30.0,
    tries: int = 20,
    out: Path | None = None,
) -> None:
    """Print the table, and write it to ``out``."""
    trained = load_run(RunFolder(run))
    x, y = trained.data.test.x[:samples], trained.data.test.y[:samples]
    b = bracket_for_certificate(trained.model, trained.data, seconds=seconds)
    radii = [float(part) for part in epsilon.split(",")]
    rows: list[dict[str, Any]] = []
    print(f"{len(x)} inputs, {b.lower:.4g} ≤ Lip(f) ≤ {b.upper:.4g}, {torch.get_num_threads()} threads, {versions()}\n")
    print("| bound | clean | " + " | ".join(f"ε = {r:g}" for r in radii) + " | median radius | s an input |")
    print("|---|---|" + "---|" * (len(radii) + 2))
    for local in (False, True):
        started = time.perf_counter()
        prediction, radius = certified_predictions(trained.model, x, b, local=local)
        took = (time.perf_counter() - started) / len(x)
        right = prediction == y
        row = {
            "local": local,
            "accuracy": float(right.double().mean()),
            "certified": {str(r): float((right & (radius > r)).double().mean()) for r in radii},
            "median_radius": float(radius.median()),
            "seconds": took,
        }
        rows.append(row)
        cells = [100 * row["accuracy"], *(100 * row["certified"][str(r)] for r in radii)]
        shown = " | ".join(f"{cell:.1f}" for cell in cells)
        print(f"| {'local' if local else 'global'} | {shown} | {row['median_radius']:.3f} | {took:.4f} |")
    changed = withstood(trained.model, x, prediction, radius, tries)
    print(f"\nclass changed just below the local radius: {changed['random']} at random, {changed['pgd']} by PGD")
    if out is not None:
        content = {"run": str(run), "inputs": len(x), "lower": b.lower, "upper": b.upper, "rows": rows}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**content, "changed": changed, "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
