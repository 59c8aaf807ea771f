"""Compare CLIP with weight decay chosen by grid search, at equal accuracy, on small tables.

python benchmarks/tabular.py --out results/tabular [--seeds 0,1,2,3,4]

The data are breast-cancer, wine and diabetes, which scikit-learn includes (California housing would need a download).
Writes results.json and table.md, and prints the table.

The protocol is the same for all: standardised features, a 60/20/20 split by seed, a perceptron with two hidden layers
of 32 tanh units, full-batch Adam with a one-cycle learning rate. Settings are chosen on validation data; test data are
used once, at the end:

- plain: no regularisation;
- decay: the weight decay with the best validation score in a grid;
- strong decay: the strongest weight decay of the grid whose validation score is at least that of decay;
- clip: the CLIP target with the most regularisation in a grid whose validation score is at least that of decay, or the
  best one if there is none.

Scores are accuracies, or R² for diabetes. Noise has standard deviation 0.5 in each standardised feature. The attack is
L2-PGD with radius 1 and 20 steps, without clipping.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import cheaplip
from cheaplip.lipschitz import largest_quotient
from cheaplip.quotient import distance
from cheaplip.runs.folder import versions

SETS: dict[str, Callable[..., tuple[object, object]]] = {
    "breast-cancer": load_breast_cancer,
    "wine": load_wine,
    "diabetes": load_diabetes,
}
DECAYS = (0.0, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)  # from weak to strong
ACCURACIES = (0.995, 0.99, 0.98, 0.97, 0.95, 0.92)  # CLIP's targets, from weak to strong regularisation
ERRORS = (0.2, 0.3, 0.4, 0.45, 0.5, 0.55)  # the same for diabetes, whose targets have variance 1
STEPS = 300
NOISE, RADIUS = 0.5, 1.0


class Part(NamedTuple):
    """Inputs (N, features) and classes (N,), or values (N, 1)."""

    x: Tensor
    y: Tensor


def split(name: str, seed: int) -> tuple[Part, Part, Part]:
    """Split a table into training, validation and test parts, standardised with the training part."""
    x, y = SETS[name](return_X_y=True)
    regression = name == "diabetes"
    options = {"random_state": seed, "stratify": None if regression else y}
    rest_x, test_x, rest_y, test_y = train_test_split(x, y, test_size=0.2, **options)
    options["stratify"] = None if regression else rest_y
    train_x, val_x, train_y, val_y = train_test_split(rest_x, rest_y, test_size=0.25, **options)
    mean, deviation = train_x.mean(0), train_x.std(0)
    parts = []
    for inputs, outputs in ((train_x, train_y), (val_x, val_y), (test_x, test_y)):
        labels = torch.from_numpy(outputs)
        if regression:
            labels = ((labels - train_y.mean()) / train_y.std()).float()[:, None]
        parts.append(Part(torch.from_numpy((inputs - mean) / deviation).float(), labels))
    return parts[0], parts[1], parts[2]


def train(data: Part, seed: int, *, decay: float = 0.0, target: float | None = None) -> nn.Module:
    """Train a network: plain, with weight decay, or with CLIP if there is a target."""
    torch.manual_seed(seed)
    regression = data.y.is_floating_point()
    outputs = 1 if regression else int(data.y.max()) + 1
    model = nn.Sequential(
        nn.Linear(data.x.shape[1], 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs)
    )
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=STEPS)
    clip = cheaplip.CLIP(cheaplip.PairSet(data.x), lam=0.05)
    controller = None
    if target is not None:
        controller = cheaplip.DiscrepancyPrinciple(
            clip, target, mode="min" if regression else "max", rate=0.05, smoothing=0.9
        )
    for _ in range(STEPS):
        output, penalty = (model(data.x), 0.0) if controller is None else clip.joint(model, data.x)
        fit = loss(output, data.y)
        optimizer.zero_grad()
        (fit + penalty).backward()
        optimizer.step()
        schedule.step()
        if controller is not None:
            controller.step(fit if regression else (output.argmax(1) == data.y).float().mean())
    return model


def loss(output: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    return (mse_loss if y.is_floating_point() else cross_entropy)(output, y, reduction=reduction)


@torch.no_grad()
def score(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the accuracy, or R² for regression."""
    output = model(x)
    if y.is_floating_point():
        return float(1 - (output - y).square().mean() / (y - y.mean()).square().mean())
    return float((output.argmax(1) == y).float().mean())


def noisy(model: nn.Module, data: Part, seed: int, copies: int = 20) -> float:
    """Return the mean score under noise."""
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randn(data.x.shape, generator=generator) for _ in range(copies))
    return statistics.mean(score(model, data.x + NOISE * noise, data.y) for noise in draws)


def attacked(model: nn.Module, data: Part, steps: int = 20) -> float:
    """Return the score under L2-PGD, with each input at the point of its path where the loss is largest."""
    shift = torch.zeros_like(data.x)
    worst, at = torch.full((len(data.x),), -1.0), data.x
    for _ in range(steps + 1):
        moved = (data.x + shift).requires_grad_()
        each = loss(model(moved), data.y, "none").reshape(len(data.x))
        (gradient,) = torch.autograd.grad(each.sum(), moved)
        better = each.detach() > worst
        at = torch.where(better[:, None], moved.detach(), at)
        worst = torch.maximum(worst, each.detach())
        shift = shift + 2.5 * RADIUS / steps * gradient / distance(gradient).clamp_min(1e-30)[:, None]
        shift = shift * (RADIUS / distance(shift).clamp_min(RADIUS))[:, None]
    return score(model, at, data.y)


def choose(candidates: list[tuple[str, nn.Module]], validation: Part, least: float) -> tuple[str, nn.Module]:
    """Return the strongest (last) candidate whose score is at least ``least``, or the best one if there is none."""
    scores = [score(model, *validation) for _, model in candidates]
    enough = [i for i, value in enumerate(scores) if value >= least]
    return candidates[enough[-1] if enough else scores.index(max(scores))]


def rows_of(name: str, seed: int) -> list[dict[str, object]]:
    """Train and measure each method on one table with one seed, and return its rows."""
    training, validation, test = split(name, seed)
    decays = [(f"decay {decay:g}", train(training, seed, decay=decay)) for decay in DECAYS]
    targets = ERRORS if name == "diabetes" else ACCURACIES
    clips = [(f"target {target:g}", train(training, seed, target=target)) for target in targets]
    best = max(score(model, *validation) for _, model in decays)
    chosen = {
        "plain": decays[0],
        "decay": next(each for each in decays if score(each[1], *validation) == best),
        "strong decay": choose(decays, validation, best),
        "clip": choose(clips, validation, best),
    }
    return [
        {
            "data": name,
            "method": method,
            "seed": seed,
            "chosen": setting,
            "validation": score(model, *validation),
            "test": score(model, *test),
            "noise": noisy(model, test, seed),
            "attack": attacked(model, test),
            "lower": largest_quotient(model, training.x, size=64, steps=50).value,
        }
        for method, (setting, model) in chosen.items()
    ]


COLUMNS = {"test": "test", "noise": f"noise {NOISE}", "attack": f"L2-PGD {RADIUS}", "lower": "largest quotient found"}


def markdown(rows: list[dict[str, object]]) -> str:
    """Make the table, with mean ± standard deviation over seeds."""
    lines = [["data", "method", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 2)]
    for name, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        own = [row for row in rows if (row["data"], row["method"]) == (name, method)]
        cells = []
        for key in COLUMNS:
            values = [float(str(row[key])) for row in own]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        lines.append([str(name), str(method), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(out: Path, seeds: str = "0,1,2,3,4") -> None:
    """Train and measure all methods, write the results, and print the table."""
    rows = [row for name in SETS for seed in seeds.split(",") for row in rows_of(name, int(seed))]
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"versions": versions(), "rows": rows}, indent=2) + "\n")
    table = markdown(rows)
    (out / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    tyro.cli(main)
