"""The controller of a run: its speed is fitted to the run.

The controller moves λ in ``cheaplip.discrepancy``, each time that the training loop calls its ``step``.
"""

from torch import Tensor

from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.training.aim import Aim
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import Method
from cheaplip.training.tasks import Task

__all__ = ["make_controller"]

_SLOW = 0.5  # factor of λ's speed for methods whose penalty takes effect slowly; the trend is extrapolated further
_LEAST_STEPS = 80.0  # fewest steps in which λ may change by a factor of e: a batch's accuracy is noisy
_ADDITIVE_RATE = 1e-3  # change of λ in a step, by the additive rule
_EPOCH_RATE = 0.5  # largest change of log λ in an epoch, where λ moves once an epoch
_GAIN = 0.8  # accuracy rises by itself as the learning rate falls: part of log λ follows the error without delay
_DAMPING = 3.0  # how far the trend is extrapolated, in units of the moving average's memory
_SPAN = 12.0  # change of log λ in a whole run, at most, for methods that respond over epochs only
_LATE_GAIN = 0.3  # of these methods
_LATE_WIDTH = 0.75  # of the distance from the target to a perfect score: where λ of these methods moves at full speed
_LATE_RELUCTANCE = 3.0  # of these methods: a network that has learnt little yet misses any target
_LEAST, _MOST = 1e-3, 1e3  # λ stays between these multiples of its first value


def make_controller(
    method: Method, config: TrainConfig, aim: Aim, task: Task, y: Tensor, total_steps: int
) -> DiscrepancyPrinciple | None:
    """Make the controller that moves a method's λ so that the run meets its target.

    λ's speed is fitted to the length of the run: the moving average of the score looks back over a thirtieth of the
    steps, at least 10 and at most 100. An aim that is measured by epoch moves λ once an epoch, by the score of that
    epoch alone. Where λ shows in the score only over epochs, it may move as far in a short run as in a long one.

    Args:
        method: the method; its penalty holds λ.
        config: the options of the run.
        aim: what λ is steered to.
        task: the task, which turns the target into a score.
        y: the training labels.
        total_steps: training steps of the whole run.

    Returns:
        The controller. None: the method has no λ, or the target is None and λ stays as it is.

    Raises:
        ValueError: a constant prediction meets the target.
    """
    penalty, first = method.penalty, method.first_lam
    if penalty is None or first is None or aim.target is None:
        return None
    target, by_epoch = task.target_score(aim.target, y), aim.by_epoch
    if config.rule == "additive":
        rate = config.rate or _ADDITIVE_RATE * (total_steps / config.resolved_epochs if by_epoch else 1)
        return DiscrepancyPrinciple(penalty, target, mode=task.mode, rule="additive", rate=rate)
    bounds = (_LEAST * first, _MOST * first)
    memory = min(100.0, max(10.0, total_steps / 30))
    if method.responds_over_epochs:
        moves = config.resolved_epochs if by_epoch else total_steps
        return DiscrepancyPrinciple(
            penalty,
            target,
            mode=task.mode,
            rate=config.rate or _SPAN / moves,
            gain=_LATE_GAIN,
            damping=_DAMPING,
            smoothing=0.0 if by_epoch else 1 - 1 / memory,
            width=max(_LATE_WIDTH * (1 - target), aim.resolution),
            reluctance=_LATE_RELUCTANCE,
            bounds=bounds,
        )
    if by_epoch:
        return DiscrepancyPrinciple(
            penalty,
            target,
            mode=task.mode,
            rate=config.rate or _EPOCH_RATE,
            smoothing=0.0,
            width=max(task.width(target), aim.resolution),
            bounds=bounds,
        )
    slow = method.responds_slowly
    return DiscrepancyPrinciple(
        penalty,
        target,
        mode=task.mode,
        rate=config.rate or (_SLOW if slow else 1.0) / max(memory, _LEAST_STEPS),
        gain=0.0 if slow else _GAIN,
        damping=_DAMPING / _SLOW if slow else _DAMPING,
        smoothing=1 - 1 / memory,
        width=task.width(target),
        reluctance=1.0 if slow else task.reluctance,
        bounds=bounds,
    )
