"""Trains a network along a path of λ: one training after another, each from the weights of the one before."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cheaplip.clip import CLIP
from cheaplip.errors import Interrupted
from cheaplip.paper.experiment import Job, Row
from cheaplip.runs.folder import RunFolder

__all__ = ["Loss", "Schedule", "minimise", "walk"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs and labels to their mean loss."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast each stage trains.

    Attributes:
        steps: number of steps of Adam. Its β is (0.9, 0.99): the penalty's gradient suddenly becomes small when the
            network is flat, and with the usual β₂ = 0.999 the steps would stay small for long after that.
        lr: peak of the one-cycle learning rate.
    """

    steps: int
    lr: float


def minimise(
    model: nn.Module,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    loss: Loss,
    clip: CLIP | None,
    schedule: Schedule,
    on_step: Callable[[int], None],
) -> None:
    """Minimise mean loss + λ·Lip over the model's parameters, in place.

    Args:
        model: is trained.
        batch: returns the inputs and labels of a step, given its number.
        loss: the mean loss of outputs and labels.
        clip: the penalty. In train mode its pairs climb, in a pass shared with the batch; in eval mode they stay where
            they are. None: no penalty.
        schedule: number of steps and learning rate.
        on_step: called with the number of steps done.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.lr, total_steps=schedule.steps + 1, cycle_momentum=False, final_div_factor=1e5
    )
    for step in range(schedule.steps):
        x, y = batch(step)
        if clip is None:
            objective = loss(model(x), y)
        elif clip.training:
            output, penalty = clip.joint(model, x)
            objective = loss(output, y) + penalty
        else:
            objective = loss(model(x), y) + clip(model)
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        on_step(step + 1)


def walk(
    job: Job,
    model: nn.Module,
    lams: Sequence[float],
    train: Callable[[float, Callable[[int], None]], None],
    measure: Callable[[float], Row],
    *,
    steps: int,
) -> Iterator[Row]:
    """Train at each λ in turn, from the weights of the one before, and yield a row for each.

    A stage that was finished before an interruption is not trained again: its weights and its row are read back.

    Args:
        job: where to work, and how to report progress.
        model: holds the first weights, then those of each stage in turn.
        lams: the path of λ.
        train: (λ, on_step) trains ``model`` in place; it must depend on nothing but the model's weights and λ.
        measure: the row of the model at λ.
        steps: number of steps of each stage, for the progress.
    """
    for stage, lam in enumerate(lams):
        folder = RunFolder(job.folder.path / f"stage-{stage}")
        if (folder.path / "row.json").is_file():
            folder.load_model(model)
            yield folder.read_json("row.json")
            continue

        def on_step(step: int, stage: int = stage, lam: float = lam) -> None:
            if job.stop():
                raise Interrupted
            job.progress((stage + step / steps) / len(lams), f"λ {lam:g}")

        train(lam, on_step)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.save_model(model)
        row = measure(lam)
        folder.write_json("row.json", row)
        yield row
