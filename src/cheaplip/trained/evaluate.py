"""Attacks on the model of a finished run; their figures are added to its metrics."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import ConfigError
from cheaplip.robustness import CORRUPTIONS, NEAREST
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.loading import TrainedModel, load_run
from cheaplip.training.tasks import task_of

__all__ = ["check_norm", "evaluate", "robust_key"]

_PIXELS = 1.0  # of blur
_SHARE = 0.2  # of the range of values, which brightness adds or takes away
_CURVE = (0.25, 0.5, 1.0, 2.0)  # of the data's radius, for attacks that one run of tells of all radii


def robust_key(name: str, epsilon: float, norm: float = 2) -> str:
    """Return the key of an attack in ``metrics.json``, such as ``pgd@2.0``, or in the norm L∞ ``pgd-linf@0.1``."""
    return f"{name}{'-linf' if norm == math.inf and name not in CORRUPTIONS else ''}@{float(epsilon)}"


def evaluate(
    folder: RunFolder,
    *,
    attacks: Sequence[str] | None = None,
    epsilons: Sequence[float] | None = None,
    samples: int | None = None,
    norm: float = 2,
    data: Data | None = None,
    source: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the accuracy of a run's model, or its error (RMSE), on attacked test inputs.

    Args:
        folder: the folder of a finished run; its ``metrics.json`` is extended.
        attacks: names from :data:`cheaplip.robustness.ATTACKS`. None: all that work in the data's box and the norm,
            except blur and brightness.
        epsilons: radii, and for corruptions their sizes. None: the data's defaults, which are L2; for ``fmn``,
            one run of which tells of all radii, from a quarter to twice the default.
        samples: how many of the test inputs to attack, from the first. None: all.
        norm: of the radii, 2 or ``math.inf``.
        data: the data of the run. None: it is loaded.
        source: where its data are now, if they have moved.
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
        trained = load_run(folder, data, source=source)
        return _evaluate(trained, folder, attacks, epsilons, samples, norm, seed, progress)


def _evaluate(
    trained: TrainedModel,
    folder: RunFolder,
    attacks: Sequence[str] | None,
    epsilons: Sequence[float] | None,
    samples: int | None,
    norm: float,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    model, data, metrics = trained.model, trained.data, trained.metrics()
    task = task_of(data)
    x, y = data.test.x[:samples], data.test.y[:samples]
    known = task.attacks(data.domain, norm)
    check_norm(data, norm, epsilons is not None)
    for name in attacks or ():
        if name not in known:
            place = "in this data's box" if norm == 2 else "in norm inf"
            raise ValueError(f"attacks: {name} does not apply to {task.name} {place}: expected {', '.join(known)}")
    task.check_model(model, x, data.outputs)
    extra = CORRUPTIONS if norm != 2 else [name for name in CORRUPTIONS if name != "noise"]  # they have no norm
    usual = [name for name in known if name not in extra]
    for name in usual if attacks is None else attacks:
        if epsilons is None:
            suited = _usual_size(name, data)
            radii: Sequence[float] = [part * suited for part in _CURVE] if name in NEAREST else [suited]
        else:
            radii = epsilons
        report = None if progress is None else _named(progress, name)
        figures = task.figures_under_attack(
            name, model, x, y, epsilons=radii, domain=data.domain, norm=norm, seed=seed, progress=report
        )
        for epsilon, figure in figures:
            key = robust_key(name, epsilon, norm)
            metrics.setdefault("robust", {})[key] = figure
            metrics.setdefault("robust_samples", {})[key] = len(x)
            task.check_consistency(metrics, folder.read_text("certified.csv"))
            folder.write_json("metrics.json", metrics)
    return metrics


def check_norm(data: Data, norm: float, given: bool) -> None:
    """Raise a :class:`ConfigError` if there are no attacks in a norm, or no radii for them.

    Args:
        data: what is attacked.
        norm: of the radii.
        given: whether radii are given.
    """
    task = task_of(data)
    if norm not in (2, math.inf) or not task.attacks(data.domain, norm):
        expected = "2 or inf" if task.attacks(data.domain, math.inf) else "2"
        raise ConfigError(f"norm: expected {expected} for attacks on {task.name}, got {norm:g}")
    if norm != 2 and not given:
        raise ConfigError("epsilon: expected radii with norm inf, for the defaults are L2: use --epsilon 8/255, say")


def _usual_size(name: str, data: Data) -> float:
    """Return the radius of an attack, or the size of a corruption, that suits the data."""
    if name == "brightness":
        width = float(data.domain.high.max() - data.domain.low.min())
        if not math.isfinite(width):
            raise ConfigError("epsilon: expected a size for brightness, as the data have no largest value")
        return _SHARE * width
    return {"noise": data.noise, "blur": _PIXELS}.get(name, data.epsilon)


def _named(progress: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
