"""Attack a finished run and add what came out to its metrics."""

from collections.abc import Callable, Sequence
from typing import Any

from cheaplip.data import Data
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.subject import of_run
from cheaplip.training.tasks import task_of

__all__ = ["evaluate", "robust_key"]


def robust_key(name: str, epsilon: float) -> str:
    """The key of an attack in ``metrics.json``, such as ``pgd@2.0``."""
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
    """Accuracy of a run's model on attacked test data, for regression its error (RMSE); merged into the run's metrics.

    Args:
        folder: a finished run.
        attacks: names from :data:`cheaplip.robustness.ATTACKS`. None: all that can work in the data's box.
        epsilons: radii (L2), for ``noise`` the standard deviation. None: the data's own.
        samples: the first so many test inputs. None: all.
        data: the run's data, if loaded already.
        seed: of the attacks' random starts.
        progress: called with (attack, inputs done, inputs in all).

    Raises:
        RunError: no finished run there, or another process is at work in it.
        ValueError: an unknown attack or a negative radius.
    """
    folder.read_json("metrics.json")  # before a lock is left where there is no run
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
    subject = of_run(folder, data)
    model, data, metrics = subject.model, subject.data, subject.metrics()
    task = task_of(data)
    x, y = data.test.x[:samples], data.test.y[:samples]
    for name in attacks or ():
        if name not in task.attacks(data.domain):
            raise ValueError(
                f"attacks: {name} does not apply to {task.name} in this data's box: expected "
                f"{', '.join(task.attacks(data.domain))}"
            )
    task.check_model(model, x[:256], data.outputs)
    for name in task.attacks(data.domain) if attacks is None else attacks:
        own = data.noise if name == "noise" else data.epsilon
        for epsilon in (own,) if epsilons is None else epsilons:
            report = None if progress is None else _named(progress, name)
            key = robust_key(name, epsilon)
            figure = task.attacked(name, model, x, y, epsilon=epsilon, domain=data.domain, seed=seed, progress=report)
            metrics.setdefault("robust", {})[key] = figure
            metrics.setdefault("robust_samples", {})[key] = len(x)
            task.check_order(metrics, folder.read_text("certified.csv"))
            folder.write_json("metrics.json", metrics)
    return metrics


def _named(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
