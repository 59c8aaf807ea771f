"""Attacks on the model of a finished run; their figures are added to its metrics."""

from collections.abc import Callable, Sequence
from typing import Any

from cheaplip.data import Data
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import load_run
from cheaplip.training.tasks import task_of

__all__ = ["evaluate", "robust_key"]


def robust_key(name: str, epsilon: float) -> str:
    """Return the key of an attack in ``metrics.json``, such as ``pgd@2.0``."""
    return f"{name}@{float(epsilon)}"


def evaluate(
    folder: RunFolder,
    *,
    attacks: Sequence[str] | None = None,
    epsilons: Sequence[float] | None = None,
    samples: int | None = None,
    data: Data | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the accuracy of a run's model, or its error (RMSE), on attacked test inputs.

    Args:
        folder: the folder of a finished run; its ``metrics.json`` is extended.
        attacks: names from :data:`cheaplip.robustness.ATTACKS`. None: all that work in the data's box.
        epsilons: radii (L2), and for ``noise`` standard deviations. None: the data's defaults.
        samples: how many of the test inputs to attack, from the first. None: all.
        data: the data of the run. None: it is loaded.
        seed: seed of the random starts of the attacks.
        progress: called with (attack, inputs done, inputs in all).

    Returns:
        The metrics, with those known before.

    Raises:
        ContradictionError: an attack broke what is certified.
        RunError: there is no finished run, or another process holds its lock.
        ValueError: an unknown attack, or a negative radius.
    """
    folder.read_json("metrics.json")  # first of all, so that no lock is left in a folder that holds no run
    with folder.locked():
        return _evaluate(folder, attacks, epsilons, samples, data, seed, progress)


def _evaluate(
    folder: RunFolder,
    attacks: Sequence[str] | None,
    epsilons: Sequence[float] | None,
    samples: int | None,
    data: Data | None,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    trained = load_run(folder, data)
    model, data, metrics = trained.model, trained.data, trained.metrics()
    task = task_of(data)
    x, y = data.test.x[:samples], data.test.y[:samples]
    for name in attacks or ():
        if name not in task.attacks(data.domain):
            raise ValueError(
                f"attacks: {name} does not apply to {task.name} in this data's box: expected "
                f"{', '.join(task.attacks(data.domain))}"
            )
    task.check_model(model, x, data.outputs)
    for name in task.attacks(data.domain) if attacks is None else attacks:
        default = data.noise if name == "noise" else data.epsilon
        for epsilon in (default,) if epsilons is None else epsilons:
            report = None if progress is None else _named(progress, name)
            key = robust_key(name, epsilon)
            figure = task.figure_under_attack(
                name, model, x, y, epsilon=epsilon, domain=data.domain, seed=seed, progress=report
            )
            metrics.setdefault("robust", {})[key] = figure
            metrics.setdefault("robust_samples", {})[key] = len(x)
            task.check_consistency(metrics, folder.read_text("certified.csv"))
            folder.write_json("metrics.json", metrics)
    return metrics


def _named(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
