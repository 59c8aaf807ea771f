"""Propositions 2 to 4 as experiments: how loss and Lipschitz constant depend on λ.

In one dimension, two neighbours attain the largest quotient of all pairs of points of a grid. So the pairs are fixed,
each point of a grid with the next: the penalty is then the exact Lipschitz constant on the grid, and the training is
deterministic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from cheaplip.clip import CLIP
from cheaplip.data import load
from cheaplip.domain import Box
from cheaplip.lipschitz import largest_quotient
from cheaplip.pairs import PairSet
from cheaplip.paper.experiment import Experiment, Job, Row, Unit
from cheaplip.paper.markdown import markdown_table
from cheaplip.paper.regression import samples
from cheaplip.paper.slope import largest_slope
from cheaplip.paper.stages import Schedule, minimise, walk
from cheaplip.runs.folder import RunFolder
from cheaplip.training.models import build

__all__ = ["PATH", "Violations", "smallest_constant", "violations"]

# eight points that a network can fit exactly
FIT_X = (-1.0, -0.7, -0.3, -0.1, 0.2, 0.5, 0.8, 1.0)
FIT_Y = (0.0, 0.3, -0.2, 0.5, 0.4, -0.3, 0.1, 0.0)
_WIDTHS = "mlp:32,32,32"
_GRID = 201


@dataclass(frozen=True)
class Violations:
    """Steps of a path in the wrong direction.

    Attributes:
        count: number of steps in the wrong direction.
        largest: size of the largest of them, as a fraction of the range of the values.
        steps: number of all steps of the path.
    """

    count: int
    largest: float
    steps: int


def violations(values: Sequence[float]) -> Violations:
    """Count the steps at which a sequence decreases.

    Example:
        >>> violations([0.0, 2.0, 1.0, 4.0])
        Violations(count=1, largest=0.25, steps=3)
    """
    drops = [a - b for a, b in pairwise(values) if a > b]
    spread = max(values) - min(values)
    return Violations(len(drops), max(drops, default=0.0) / (spread or 1.0), len(values) - 1)


def smallest_constant(x: Tensor, y: Tensor) -> float:
    """Compute the smallest Lipschitz constant of any function through the points x, y, both (N, 1).

    It is the steepest slope between two neighbouring points.
    """
    order = x[:, 0].argsort()
    rise, run = y[order].diff(dim=0), x[order].diff(dim=0)
    return float((rise / run).abs().max())


def _regression(job: Job) -> list[Row]:
    """The paper's samples; λ falls, as in the paper."""
    x, y = (part.double() for part in samples())
    lams: tuple[float, ...] = (10.0, 1.0, 0.3, 0.1, 0.06, 0.03, 0.02, 0.01, 6e-3, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
    if job.quick:
        lams = (1.0, 0.1, 0.01, 1e-3)
    model = build(_WIDTHS, (1,), 1, activation="tanh").double()
    rows = _curve_path(job, "regression", model, x, y, (-4.0, 4.0), lams)
    return [*rows, *_monotone("regression", rows), _barycentre("regression", rows[0])]


def _interpolation(job: Job) -> list[Row]:
    """Eight points that can be fitted exactly: first plain training, then λ falls towards 0."""
    x, y = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (FIT_X, FIT_Y))
    least = smallest_constant(x, y)
    lams = (0.1, 0.01, 1e-3, 1e-4) if job.quick else (1.0, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
    rows = []
    for name, path in (("plain training", (0.0,)), ("interpolation", lams)):
        part = replace(job, folder=RunFolder(job.folder.path / name.replace(" ", "-")))
        model = build(_WIDTHS, (1,), 1, activation="tanh").double()
        rows += _curve_path(part, name, model, x, y, (-1.0, 1.0), path)
    for row in rows:
        row["smallest_constant"] = least
    plain, last = (row["lipschitz"]["lower"] / least for row in (rows[0], rows[-1]))
    checks = [
        _check(
            "interpolation: constant over the smallest possible, λ → 0", last, "within 5 % of 1", abs(last - 1) <= 0.05
        ),
        _check("interpolation: the same for plain training", plain, "at least 2", plain >= 2),
    ]
    return [*rows, *_monotone("interpolation", rows[1:]), _barycentre("interpolation", rows[1]), *checks]


def _curve_path(
    job: Job, name: str, model: nn.Module, x: Tensor, y: Tensor, ends: tuple[float, float], lams: Sequence[float]
) -> list[Row]:
    schedule = Schedule(steps=700 if job.quick else 3000, lr=0.003)
    clip = CLIP(_neighbours(*ends), aggregate="max").eval()

    def train(lam: float, on_step: Callable[[int], None]) -> None:
        clip.lam.fill_(lam)
        minimise(model, lambda _: (x, y), mse_loss, clip if lam else None, schedule, on_step)

    @torch.no_grad()
    def measure(lam: float) -> Row:
        grid = torch.linspace(*ends, 1001, dtype=torch.float64)[:, None]
        distance = float((model(grid) - y.mean()).abs().max() / y.std())
        return _row(name, lam, float(mse_loss(model(x), y)), largest_slope(model, *ends).value, distance)

    return list(walk(job, model, lams, train, measure, steps=schedule.steps))


def _neighbours(low: float, high: float) -> PairSet:
    """The pairs of each point of a grid with the next."""
    grid = torch.linspace(low, high, _GRID, dtype=torch.float64)[:, None]
    pairs = PairSet(grid, size=_GRID - 1, domain=Box(low, high), renew=0)
    pairs.u.copy_(grid[:-1])
    pairs.v.copy_(grid[1:])
    return pairs


def _digits(job: Job) -> list[Row]:
    """Handwritten digits; λ rises, because training does not recover from a network that has become constant."""
    data = load("digits")
    count = 300 if job.quick else len(data.train.x)
    x, y = data.train.x[:count].double(), data.train.y[:count]
    lams = (3e-3, 0.03, 0.3, 4.0) if job.quick else (3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0)
    schedule = Schedule(steps=500, lr=0.01) if job.quick else Schedule(steps=1500, lr=0.005)
    model = build("mlp:32", data.shape, data.classes, activation="tanh").double()
    frequencies = y.bincount(minlength=data.classes) / len(y)

    def clip(lam: float) -> CLIP:
        return CLIP(PairSet(x, domain=data.domain, renew=2, grace=10, step_size=0.01), lam)

    def train(lam: float, on_step: Callable[[int], None]) -> None:
        minimise(model, lambda _: (x, y), cross_entropy, clip(lam), schedule, on_step)

    @torch.no_grad()
    def measure(lam: float) -> Row:
        found = largest_quotient(model, x, domain=data.domain, size=128 if job.quick else 512)
        output = model(x)
        distance = float((output.softmax(1) - frequencies).abs().max())
        return _row("digits", lam, float(cross_entropy(output, y)), found.value, distance)

    rows = list(walk(job, model, lams, train, measure, steps=schedule.steps))
    return [*rows, *_monotone("digits", rows), _barycentre("digits", rows[-1])]


def _row(name: str, lam: float, loss: float, constant: float, distance: float) -> Row:
    """A row of the path.

    Args:
        name: of the task.
        lam: λ; 0: plain training.
        loss: the training loss.
        constant: the largest quotient found.
        distance: the largest distance of an output from the average label, the barycentre; for regression in standard
            deviations of the labels, for digits in probability.
    """
    return {
        "name": f"{name}, λ = {lam:g}" if lam else name,
        "method": "clip" if lam else "plain",
        "target": None,
        "seed": 0,
        "lam": lam,
        "loss": loss,
        "lipschitz": {"lower": constant},
        "barycentre": distance,
    }


def _monotone(name: str, rows: Sequence[Row]) -> list[Row]:
    """The checks of Proposition 2: as λ rises, the loss does not fall and the constant does not rise."""
    ordered = sorted(rows, key=lambda row: row["lam"])
    losses = violations([row["loss"] for row in ordered])
    constants = violations([-row["lipschitz"]["lower"] for row in ordered])
    return [
        _check(
            f"{name}: {what}, {found.count} violations in {found.steps} steps, the largest over the range",
            found.largest,
            "at most 0.01",
            found.largest <= 0.01,
        )
        | {"violations": found.count}
        for what, found in (("loss non-decreasing in λ", losses), ("constant non-increasing in λ", constants))
    ]


def _barycentre(name: str, row: Row) -> Row:
    """The check of Proposition 4: for a large λ, all outputs are the average label."""
    return _check(
        f"{name}: distance of the outputs from the barycentre, λ = {row['lam']:g}",
        row["barycentre"],
        "at most 0.01",
        row["barycentre"] <= 0.01,
    )


def _check(name: str, value: float, limit: str, holds: bool) -> Row:
    return {"name": name, "check": True, "value": value, "limit": limit, "holds": holds}


def _units(_quick: bool) -> list[Unit]:
    return [
        Unit("regression", 50.0, _regression),
        Unit("interpolation", 40.0, _interpolation),
        Unit("digits", 90.0, _digits),
    ]


def _table(rows: Sequence[Row]) -> str:
    figures = [
        [row["name"], f"{row['loss']:.3g}", f"{row['lipschitz']['lower']:.3g}", f"{row['barycentre']:.3g}"]
        for row in rows
        if not row.get("check")
    ]
    checks = [
        [row["name"], f"{row['value']:.3g}", row["limit"], "yes" if row["holds"] else "**no**"]
        for row in rows
        if row.get("check")
    ]
    return (
        markdown_table(["", "training loss", "largest quotient", "distance from the barycentre"], figures)
        + "\n"
        + markdown_table(["check", "value", "expected", "holds"], checks)
    )


PATH = Experiment("path", _units, _table)
