"""Compare the certificates of every training method, and of deel-torchlip's 1-Lipschitz networks, in one table.

python benchmarks/certificates.py --out results/certificates [--data mnist] [--seeds 0,1,2] [--samples 1000]
python benchmarks/certificates.py --out results/certificates-cnn --data fashion-mnist --model cnn --search 64 --probe 0

All models have the same widths. Each is certified on all test inputs, and attacked with PGD and AutoAttack on the first
``--samples``. To test the certificates, each certified test input is moved by 0.999999 of its radius, in ``--tries``
random directions and by PGD on the lead of its class, even out of the data's range. Its class must never change.
Writes results.json and table.md. After an interruption, the same command continues.

The rows of deel-torchlip need ``pip install deel-torchlip``; without it, they are left out and a message says so. Its
dense networks have Lip(f) = 1 by construction. The norm of a spectral convolution is only close to 1, so convolutional
networks are certified with the bound that :func:`cheaplip.bracket` proves for them.
"""

import json
import math
import statistics
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import normalize

from cheaplip.certificate import certified_predictions
from cheaplip.data import Data, load
from cheaplip.lipschitz import register_layer
from cheaplip.lipschitz.bracket import bracket
from cheaplip.robustness import accuracy, attack
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.runs.naming import run_name
from cheaplip.trained.certify import bracket_for_certificate
from cheaplip.trained.compare import Attack, compare
from cheaplip.trained.loading import load_trained
from cheaplip.training.config import TrainConfig, from_json

NEAR = 0.999999
BATCH = 1000


def variants(base: TrainConfig, margins: list[float], target: float) -> dict[str, TrainConfig]:
    """Return a configuration for each method (steered: with ``target``), and for certified training at each margin."""
    return {
        **{method: replace(base, method=method) for method in ("plain", "adversarial", "certified")},
        **{method: replace(base, method=method, target=target) for method in ("weight", "clip", "clip+certified")},
        **{f"certified, margin {margin:g}": replace(base, method="certified", margin=margin) for margin in margins},
    }


def withstood(model: nn.Module, x: Tensor, prediction: Tensor, radius: Tensor, tries: int) -> dict[str, int]:
    """Count the inputs whose class changes just below their certified radius; any but 0 means a wrong certificate."""
    sure = radius > 0
    x, prediction, radius = x[sure], prediction[sure], NEAR * radius[sure].reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    generator = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(tries, math.prod(x.shape[1:]), generator=generator, dtype=torch.float64))
    directions = directions.to(x.dtype).view(tries, *x.shape[1:])
    parts = zip(x.split(BATCH), prediction.split(BATCH), radius.split(BATCH), strict=True)
    changed = [_changed(model, *part, directions) for part in parts]
    return {
        "random": sum(random for random, _ in changed),
        "pgd": sum(pgd for _, pgd in changed),
        "inputs": len(x),
        "tries": tries * len(x),
    }


def _changed(model: nn.Module, x: Tensor, prediction: Tensor, radius: Tensor, directions: Tensor) -> tuple[int, int]:
    def changed(delta: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x + delta).argmax(1) != prediction

    def to_sphere(delta: Tensor) -> Tensor:
        return radius * normalize(delta.flatten(1).double()).view_as(delta).to(x.dtype)

    found = torch.zeros(len(x), dtype=torch.bool)
    for direction in directions:
        found |= changed(radius * direction)
    delta, broken = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.bool)
    for _ in range(20):
        at = (x + delta).requires_grad_()
        logits, column = model(at), prediction[:, None]
        lead = logits.gather(1, column).squeeze(1) - logits.scatter(1, column, -math.inf).amax(1)
        (gradient,) = torch.autograd.grad(-lead.sum(), at)
        delta = to_sphere(delta + 0.2 * to_sphere(gradient))
        broken |= changed(delta)
    return int(found.sum()), int(broken.sum())


def torchlip_row(
    data: Data, config: TrainConfig, margin: float, alpha: float, radii: list[float], attacks: list[Attack]
) -> dict[str, Any]:
    """Train, certify and attack a network of deel-torchlip with its HKR loss, and return its row."""
    from deel import torchlip

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = torchlip.Sequential(*_torchlip_layers(config.model, data))
        batch, epochs = min(256, len(data.train.x) // 40), config.epochs or 20
        loss = torchlip.HKRMulticlassLoss(alpha=alpha, min_margin=margin)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        steps = len(data.train.x) // batch
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * steps)
        targets = nn.functional.one_hot(data.train.y, data.classes)
        seconds = []
        for _ in range(epochs):
            started = time.perf_counter()
            for chosen in torch.randperm(len(data.train.x))[: steps * batch].split(batch):
                optimizer.zero_grad()
                loss(model(data.train.x[chosen]), targets[chosen]).backward()
                optimizer.step()
                schedule.step()
            seconds.append(time.perf_counter() - started)
    exported = model.vanilla_export().eval()
    ends: dict[str, float] = {"upper": 1.0}
    if config.model == "cnn":
        register_layer(torchlip.GroupSort2, lambda _: 1.0)  # it only reorders values
        b = bracket(exported, data.domain, x=data.train.x, seconds=5.0)
        ends = {"lower": b.lower, "upper": b.upper}
    with torch.no_grad():
        top = exported(data.test.x.float()).double().topk(2)
    correct = top.indices[:, 0] == data.test.y
    radius = (top.values[:, 0] - top.values[:, 1]) / (math.sqrt(2) * ends["upper"])
    found = {}
    for one in attacks:
        x, y = data.test.x[: one.samples], data.test.y[: one.samples]
        result = attack(one.name, exported, x, y, epsilon=one.epsilon, domain=data.domain)
        found[f"{one.name}@{one.epsilon}"] = result.accuracy
    return {
        "name": f"deel-torchlip HKR, margin {margin:g}",
        "seed": config.seed,
        "accuracy": {"test": accuracy(exported, data.test.x, data.test.y)},
        "robust": found,
        "certified": {str(float(r)): float((correct & (radius > r)).double().mean()) for r in radii},
        "lipschitz": ends,
        "seconds_per_epoch": statistics.median(seconds),
    }


def _torchlip_layers(model: str, data: Data) -> list[nn.Module]:
    """Return the layers of deel-torchlip's counterpart of a model: the same widths, spectral layers and GroupSort."""
    from deel import torchlip

    if model == "cnn":
        channels, height, width = data.shape
        return [
            torchlip.SpectralConv2d(channels, 32, 5, padding="same"),
            torchlip.GroupSort2(),
            nn.MaxPool2d(2),
            torchlip.SpectralConv2d(32, 64, 5, padding="same"),
            torchlip.GroupSort2(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            torchlip.SpectralLinear(64 * (height // 4) * (width // 4), 1024),
            torchlip.GroupSort2(),
            torchlip.SpectralLinear(1024, data.classes),
        ]
    widths = [math.prod(data.shape), *map(int, model.removeprefix("mlp:").split(",")), data.classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths[:-1]):
        layers += [torchlip.SpectralLinear(before, after), torchlip.GroupSort2()]
    return [*layers, torchlip.SpectralLinear(widths[-2], widths[-1])]


def table(rows: list[dict[str, Any]]) -> str:
    """Make the table, with a line for each name: mean ± standard deviation over seeds, accuracies in per cent."""
    keys = list(dict.fromkeys(key for row in rows for key in _figures(row)))
    lines = [["", "seeds", *keys], ["---"] * (len(keys) + 2)]
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = [_figures(row) for row in rows if row["name"] == name]
        cells = [_cell([run[key] for run in runs if run.get(key) is not None], key) for key in keys]
        lines.append([name, str(len(runs)), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figures(row: dict[str, Any]) -> dict[str, float | None]:
    lower, upper = row["lipschitz"].get("lower"), row["lipschitz"].get("upper")
    return {
        "clean %": row["accuracy"]["test"],
        **{f"certified {key} %": value for key, value in row["certified"].items()},
        **{f"{key} %": value for key, value in row["robust"].items() if not key.startswith("noise")},
        "upper": upper,
        "upper / lower": upper / lower if upper and lower else None,
        "changed below the radius": sum(row["withstood"][kind] for kind in ("random", "pgd"))
        if row.get("withstood", {}).get("inputs")
        else None,
    }


def _cell(values: list[float], key: str) -> str:
    if not values:
        return "–"
    scale, form = (100, ".1f") if key.endswith("%") else (1, ".3g")
    mean = f"{scale * statistics.fmean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {scale * statistics.stdev(values):{form}}"


def main(
    out: Path = Path("results/certificates"),
    data: str = "mnist",
    model: str = "mlp:200,80",
    target: float = 0.98,
    seeds: str = "0,1,2",
    epochs: int | None = None,
    epsilon: str = "0.5,1,2",
    radii: str = "0.5,1,1.58,2",
    margins: str = "0.6,1.6,2",
    hkr_margins: str = "0.25,0.5,1",
    hkr_alpha: float = 0.99,
    samples: int = 1000,
    tries: int = 10_000,
    search: int = 512,
    probe: int = 64,
) -> None:
    """Train, certify and attack all models, and print the table; ``search`` and ``probe`` as in ``cheaplip train``."""
    loaded = load(data)
    at = [float(r) for r in radii.split(",")]
    attacks = [Attack(name, float(e), samples) for e in epsilon.split(",") for name in ("pgd", "autoattack")]
    base = TrainConfig(data=data, model=model, epochs=epochs, search=search, probe=probe)
    configs = variants(base, [float(m) for m in margins.split(",") if m], target)
    numbers = [int(seed) for seed in seeds.split(",")]
    rows = compare(configs, numbers, loaded, out, attacks=attacks, certify_at=at)
    for row in rows:
        row["withstood"] = _withstood(RunFolder(out / run_name(row["name"], row["seed"])), loaded, tries)
    if missing := _no_torchlip(model):
        print(f"{missing}: its rows are left out")
    else:
        for seed in numbers:
            for margin in [float(m) for m in hkr_margins.split(",") if m]:
                rows.append(_kept(out, loaded, replace(base, seed=seed), margin, hkr_alpha, at, attacks))
    RunFolder(out).write_rows(rows)
    text = (
        f"{data}, {model}, attacks on {samples} test inputs; mean ± standard deviation; {versions()}\n\n{table(rows)}\n"
    )
    RunFolder(out).write_text("table.md", text)
    print(text)


def _withstood(folder: RunFolder, data: Data, tries: int) -> dict[str, int]:
    """Test the certificates of a run, or read the result of an earlier call with as many tries."""
    kept = folder.path / "withstood.json"
    if kept.is_file() and (found := json.loads(kept.read_text()))["tries"] == tries * found["inputs"]:
        return found
    model = load_trained(folder, from_json(folder.read_json("config.json")), data)
    b = bracket_for_certificate(model, data, seconds=5.0)
    found = withstood(model, data.test.x, *certified_predictions(model, data.test.x, b, batch=250), tries)
    folder.write_json("withstood.json", found)
    return found


def _no_torchlip(model: str) -> str:
    """Say why deel-torchlip has no rows; return "" if it has."""
    try:
        import deel.torchlip  # noqa: F401 - only to see whether it is installed
    except ImportError:
        return "deel-torchlip is not installed (pip install deel-torchlip)"
    known = model == "cnn" or model.startswith("mlp:")
    return "" if known else f"deel-torchlip has no counterpart of the model {model}"


def _kept(
    out: Path, data: Data, config: TrainConfig, margin: float, alpha: float, radii: list[float], attacks: list[Attack]
) -> dict[str, Any]:
    """Return deel-torchlip's row, from an earlier call if there was one."""
    folder = RunFolder(out / f"torchlip-{margin:g}-seed{config.seed}")
    if (folder.path / "row.json").is_file():
        return json.loads((folder.path / "row.json").read_text())
    row = torchlip_row(data, config, margin, alpha, radii, attacks)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("row.json", row)
    return row


if __name__ == "__main__":
    tyro.cli(main)
