"""The controller of a training's λ, its speed fitted to the length of the run."""

from torch import Tensor

from cheaplip.data import Data
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import Method
from cheaplip.training.tasks import Task, task_of

__all__ = ["check_target", "controller"]

_SLOW = 0.5  # of the usual speed, where the network answers slowly; λ then looks further ahead
_LEAST_STEPS = 80.0  # for an e-fold change of λ: in short runs a batch's figure is mostly noise
_ADDED = 1e-3  # to λ in a step, by the additive rule
_EPOCH_RATE = 0.5  # largest change of log λ where it moves by the epoch
_GAIN = 0.8  # the figure improves by itself as the rate falls: λ leans against it at once


def check_target(config: TrainConfig, data: Data) -> None:
    """Raise a ``ValueError`` if a method that is steered has no target, or one that a constant reaches."""
    if config.method_class.steered and config.steered_to is not None:
        task_of(data).goal(config.steered_to, data.train.y)


def controller(
    method: Method, config: TrainConfig, task: Task, y: Tensor, total_steps: int
) -> DiscrepancyPrinciple | None:
    """What steers the method's λ; None where there is nothing to steer, or no target.

    λ's speed follows the length of the run: thirty memories of the moving average, or more. On validation data it moves
    once an epoch, by that epoch's figure alone.

    Args:
        method: with its penalty.
        config: of the run.
        task: what the target means.
        y: training labels.
        total_steps: of the run.

    Raises:
        ValueError: the target is missing, or a constant reaches it.
    """
    penalty, first = method.penalty, method.first_lam
    if penalty is None or first is None or config.steered_to is None:
        return None
    goal = task.goal(config.steered_to, y)
    by_epoch = config.target_on == "validation"
    if config.rule == "additive":
        rate = config.rate or _ADDED * (total_steps / config.resolved_epochs if by_epoch else 1)
        return DiscrepancyPrinciple(penalty, goal, mode=task.mode, rule="additive", rate=rate)
    bounds = (1e-3 * first, 1e3 * first)
    if by_epoch:
        return DiscrepancyPrinciple(
            penalty,
            goal,
            mode=task.mode,
            rate=config.rate or _EPOCH_RATE,
            smoothing=0.0,
            width=task.width(goal),
            bounds=bounds,
        )
    memory = min(100.0, max(10.0, total_steps / 30))
    slow = method.answers_slowly
    return DiscrepancyPrinciple(
        penalty,
        goal,
        mode=task.mode,
        rate=config.rate or (_SLOW if slow else 1.0) / max(memory, _LEAST_STEPS),
        gain=0.0 if slow else _GAIN,
        damping=3 / _SLOW if slow else 3.0,
        smoothing=1 - 1 / memory,
        width=task.width(goal),
        reluctance=1.0 if slow else task.reluctance,
        bounds=bounds,
    )
