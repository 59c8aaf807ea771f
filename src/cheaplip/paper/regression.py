"""Figure 2: a network is fitted to noisy samples of f(x) = ½·max(|x| − 3, 0) with λ = 0, 10, 1 and 1e−10."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cheaplip.clip import CLIP
from cheaplip.domain import Box
from cheaplip.pairs import PairSet
from cheaplip.paper.experiment import Experiment, Job, Row, Unit
from cheaplip.paper.markdown import markdown_table
from cheaplip.paper.pictures import draw_curves
from cheaplip.paper.slope import largest_slope
from cheaplip.paper.stages import Schedule, minimise, walk

__all__ = ["REGRESSION", "network", "samples", "truth"]

LOW, HIGH = -4.0, 4.0
LAMS = (0.0, 10.0, 1.0, 1e-10)  # in the order of training: each starts from the weights of the one before
NOISE = 0.05  # standard deviation of the noise in the samples; the paper does not give it
_BATCH = 25
_PAIRS = 32
_POINTS = 401  # number of points of the curves in results.json


def truth(x: Tensor) -> Tensor:
    """Compute the true function, ½·max(|x| − 3, 0)."""
    return (x.abs() - 3).clamp_min(0) / 2


def samples(count: int = 100, *, noise: float = NOISE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw points uniformly from [−4, −3] ∪ [−0.3, 0.3] ∪ [3, 4], and noisy values of the true function there.

    Returns:
        Points and values, both (count, 1), float32.
    """
    generator = torch.Generator().manual_seed(seed)
    t = 2.6 * torch.rand(count, 1, generator=generator) - 1.3  # the three intervals without the gaps between them
    x = torch.where(t < -0.3, t - 2.7, torch.where(t > 0.3, t + 2.7, t))
    return x, truth(x) + noise * torch.randn(count, 1, generator=generator)


def network(widths: Sequence[int] = (500, 200, 100), *, seed: int = 0) -> nn.Sequential:
    """Build the paper's network 1-500-200-100-1, with a sigmoid after every layer, the last one included."""
    sizes = [1, *widths, 1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [(nn.Linear(m, n), nn.Sigmoid()) for m, n in pairwise(sizes)]
    return nn.Sequential(*[layer for pair in layers for layer in pair])


def _run(kind: str, job: Job) -> list[Row]:
    """Train along the path of λ, with one kind of pairs: ``"paper"`` or ``"tournament"``."""
    x, y = samples()
    model = network()
    schedule = Schedule(steps=300 if job.quick else 3000, lr=0.01)
    return list(
        walk(
            job,
            model,
            LAMS,
            partial(_train, model, x, y, kind, schedule),
            partial(_measure, model, x, y, kind),
            steps=schedule.steps,
        )
    )


def _train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    kind: str,
    schedule: Schedule,
    lam: float,
    on_step: Callable[[int], None],
) -> None:
    pairs = _pairs(x, kind)
    clip = CLIP(pairs, lam, aggregate="max" if kind == "paper" else "softmax") if lam else None
    shuffle = torch.Generator().manual_seed(1)
    order = torch.arange(0)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal order
        position = step * _BATCH % len(x)
        if position == 0:
            order = torch.randperm(len(x), generator=shuffle)
            if kind == "paper":
                pairs.redraw_()
        chosen = order[position : position + _BATCH]
        return x[chosen], y[chosen]

    minimise(model, batch, mse_loss, clip, schedule, on_step)


def _pairs(x: Tensor, kind: str) -> PairSet:
    box = Box(LOW, HIGH)
    if kind == "paper":
        return PairSet(x, size=_PAIRS, domain=box, start="uniform", step="quotient", renew=0)
    return PairSet(x, size=_PAIRS, domain=box, start="uniform")


@torch.no_grad()
def _measure(model: nn.Module, x: Tensor, y: Tensor, kind: str, lam: float) -> Row:
    grid = torch.linspace(LOW, HIGH, _POINTS)[:, None]
    fitted = model(grid)
    largest, at = largest_slope(model, LOW, HIGH)
    # two points of the curve, so close to its steepest place that the line through them is nearly the tangent there
    ends = torch.tensor([max(at - 0.05, LOW), min(at + 0.05, HIGH)])[:, None]
    return {
        "name": f"λ = {lam:g}" if kind == "paper" else f"λ = {lam:g}, tournament",
        "method": "clip" if lam else "plain",
        "target": None,
        "seed": 0,
        "pairs": kind,
        "lam": lam,
        "loss": float(mse_loss(model(x), y)),
        "error": float((fitted - truth(grid)).square().mean().sqrt()),
        "lipschitz": {"lower": largest},
        "steepest": {"at": at, "x": ends[:, 0].tolist(), "y": model(ends)[:, 0].tolist()},
        "curve": {"x": grid[:, 0].tolist(), "y": fitted[:, 0].tolist(), "truth": truth(grid)[:, 0].tolist()},
        "samples": {"x": x[:, 0].tolist(), "y": y[:, 0].tolist()},
    }


def _units(_quick: bool) -> list[Unit]:
    return [Unit(kind, 60.0, partial(_run, kind)) for kind in ("paper", "tournament")]


def _table(rows: Sequence[Row]) -> str:
    body = [
        [row["name"], f"{row['loss']:.5f}", f"{row['error']:.4f}", f"{row['lipschitz']['lower']:.3g}"] for row in rows
    ]
    return markdown_table(["", "training loss", "error against the truth", "largest quotient"], body)


REGRESSION = Experiment("regression", _units, _table, draw_curves)
