"""A path of λ: one training after another, each starting from the weights of the one before."""

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


@dataclass(frozen=True)
class Schedule:
    """How long and how fast each stage trains.

    Attributes:
        steps: of Adam, with β = (0.9, 0.99): the penalty's gradient drops at once when the network is flat, and a
            longer memory would keep the steps small long after.
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
        model: to be trained.
        batch: (x, y) of a step.
        loss: mean over the batch.
        clip: the penalty. In train mode its pairs climb (one shared pass); in eval mode they stay. None: no penalty.
        schedule: steps and learning rate.
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
    """Train at each λ in turn, from the weights of the one before; yields a row for each.

    A stage that was finished before a crash is read back, weights and row, instead of being trained again.

    Args:
        job: where, and how to report.
        model: holds the first weights, and each stage's in turn.
        lams: the path.
        train: (λ, on_step) trains ``model`` in place; depends on nothing but the model's weights and λ.
        measure: the row of the model at λ.
        steps: of each stage, for the progress.
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
