"""Figure 1: two images that are classified with confidence, and then taken for each other's class."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.data import Data, Split, load
from cheaplip.errors import CheaplipWarning, Interrupted
from cheaplip.pairs import PairSet
from cheaplip.paper.experiment import Experiment, Job, Row, Unit
from cheaplip.paper.markdown import markdown_table, per_cent
from cheaplip.paper.pictures import draw_pair
from cheaplip.quotient import quotient
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import load_trained
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train

__all__ = ["FIGURE1", "Found", "search_pair"]

BEFORE, AFTER = 0.9, 0.3  # confidences: at least so large before the ascent, and smaller than that after it
CLASSES = (
    "T-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_TRAINING = 0.5  # share of the time that training takes, for the progress


class Found(NamedTuple):
    r"""The pair of images that came nearest to the paper's conditions.

    Attributes:
        before, after: the two images, (2, \*input), before and after the ascent.
        steps: number of steps of the ascent.
        step_size: τ, its step size.
        holds: whether the pair meets the conditions.
    """

    before: Tensor
    after: Tensor
    steps: int
    step_size: float
    holds: bool


@torch.no_grad()
def search_pair(
    model: nn.Module,
    squash: nn.Module,
    images: Split,
    data: Data,
    *,
    size: int,
    steps: int,
    step_sizes: Sequence[float],
    job: Job,
) -> Found:
    """Let pairs of confidently classified images climb by the paper's Algorithm 1 until one meets the conditions.

    Args:
        model: from images to logits, (B, classes); the ascent increases the quotient of the logits.
        squash: from logits to confidences.
        images: pairs are drawn from them.
        data: its domain is where the pairs may climb.
        size: number of pairs that climb together.
        steps: number of steps of the ascent, at most.
        step_sizes: τ; each is tried in turn until a pair is found.
        job: says when to stop, and takes the progress.

    Raises:
        ValueError: there are no two images of different classes with a confidence above 90 %.
    """
    confidence, label = squash(model(images.x)).max(dim=1)
    sure = ((confidence > BEFORE) & (label == images.y)).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(max(1, len(sure)), (2, 4 * size), generator=generator)
    first, second = sure[draws] if len(sure) else sure.new_zeros(2, 0)
    different = (label[first] != label[second]).nonzero()[:size, 0]
    if not len(different):
        raise ValueError(f"expected images of two classes with a confidence above {BEFORE:.0%}: train for longer")
    u, v, of_u, of_v = (part[different] for part in (images.x[first], images.x[second], label[first], label[second]))
    best = Found(torch.stack([u[0], v[0]]), torch.stack([u[0], v[0]]), 0, step_sizes[0], holds=False)
    least = float("inf")
    for number, step_size in enumerate(step_sizes):
        pairs = PairSet(images.x, size=len(u), domain=data.domain, step="quotient", step_size=step_size, renew=0)
        pairs.u.copy_(u)
        pairs.v.copy_(v)
        for step in range(1, steps + 1):
            if job.stop():
                raise Interrupted
            job.progress(_TRAINING + (1 - _TRAINING) * (number + step / steps) / len(step_sizes), f"τ {step_size:g}")
            pairs.climb_(model)
            sure_u, now_u = squash(model(pairs.u)).max(dim=1)
            sure_v, now_v = squash(model(pairs.v)).max(dim=1)
            missed = (now_u != of_v).float() + (now_v != of_u).float() + torch.maximum(sure_u, sure_v)
            place = int(missed.argmin())
            if missed[place] < least:
                least = float(missed[place])
                ends = torch.stack([pairs.u[place], pairs.v[place]])
                best = Found(torch.stack([u[place], v[place]]), ends, step, step_size, least < AFTER)
            if best.holds:
                return best
    return best


def _run(kind: str, job: Job) -> list[Row]:
    """Train a network, then search. The confidence is the output of a final sigmoid, or of a softmax.

    The ascent works on the logits: where a sigmoid or a softmax is close to 0 or 1, its gradient vanishes and no pair
    would move.
    """
    config = TrainConfig(
        data="fashion-mnist",
        method="plain",
        target=None,
        activation="relu",
        final_activation="sigmoid" if kind == "sigmoid" else "none",
        lr=0.5 if kind == "sigmoid" else 0.05,
        epochs=4,
        probe=0,
        search=8,
    )
    data = load(config.data)
    folder = RunFolder(job.folder.path / "network")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheaplipWarning)  # it says that a final sigmoid masks gradients
        train(
            config,
            data,
            folder,
            resume=folder.exists(),
            progress=lambda done, total, _: job.progress(_TRAINING * done / total, "trains"),
            stop=job.stop,
        )
    trained: nn.Module = load_trained(folder, config, data)
    model, squash = (
        trained if isinstance(trained, nn.Sequential) and kind == "sigmoid" else (trained, nn.Softmax(dim=1))
    )
    found = search_pair(
        model, squash, data.test, data, size=500 if job.quick else 1000, steps=50, step_sizes=(0.3, 0.1, 1.0), job=job
    )
    return [_row(kind, model, squash, found)]


@torch.no_grad()
def _row(kind: str, model: nn.Module, squash: nn.Module, found: Found) -> Row:
    return {
        "name": f"confidence of the {kind}",
        "method": "plain",
        "target": None,
        "seed": 0,
        "confidence": kind,
        "before": _images(squash(model(found.before)), found.before),
        "after": _images(squash(model(found.after)), found.after),
        "quotients": [_quotient(model, found.before), _quotient(model, found.after)],
        "steps": found.steps,
        "step_size": found.step_size,
        "holds": found.holds,
    }


def _images(confidences: Tensor, images: Tensor) -> list[Row]:
    confidence, label = confidences.max(dim=1)
    return [
        {"class": CLASSES[number], "confidence": sure, "pixels": [[round(p, 3) for p in line] for line in image]}
        for number, sure, image in zip(label.tolist(), confidence.tolist(), images[:, 0].tolist(), strict=True)
    ]


def _quotient(model: nn.Module, images: Tensor) -> float:
    u, v = images[:1], images[1:]
    return float(quotient(model(u), model(v), u, v))


def _units(_quick: bool) -> list[Unit]:
    return [Unit(kind, 100.0, partial(_run, kind)) for kind in ("sigmoid", "softmax")]


def _table(rows: Sequence[Row]) -> str:
    def shown(images: list[Row]) -> str:
        return ", ".join(f"{image['class']} {per_cent(image['confidence'])} %" for image in images)

    body = [
        [
            row["name"],
            shown(row["before"]),
            shown(row["after"]),
            " → ".join(f"{value:.3g}" for value in row["quotients"]),
            "yes" if row["holds"] else "**no**, the nearest found",
        ]
        for row in rows
    ]
    return markdown_table(["", "before", "after", "quotient", "> 90 % before; the other's class, < 30 % after"], body)


FIGURE1 = Experiment("figure1", _units, _table, draw_pair)
