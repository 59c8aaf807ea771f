"""A quick measurement of a run that has just ended: under noise, under attack, and both ends of its bracket."""

import time
import warnings
from collections.abc import Callable
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import CheaplipWarning, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.naming import plain_beside
from cheaplip.trained.bracket import bracket_model
from cheaplip.trained.evaluate import evaluate, robust_key
from cheaplip.trained.loading import load_run
from cheaplip.training.tasks import task_of

__all__ = ["measure_quickly"]

_SHARE = 0.6  # of the time that the training took, for all of the measurement
_LEAST, _MOST = 2.0, 60.0  # seconds for it
_FIRST = 32  # inputs attacked first, to see how long one takes
_QUICK, _CHEAP = 0.7, 300  # seconds for the first inputs below which so many take hardly more
_INPUTS = 1000  # inputs attacked at most
_ATTACK = "pgd"


def measure_quickly(
    folder: RunFolder, data: Data, *, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Measure a finished run in less time than its training took, and add the figures to its metrics.

    The figures: noise and PGD with the data's radii, on the first 1000 test inputs or as many as there is time for, and
    lower ≤ Lip(f) ≤ upper. What the run has already is not measured again. The plain network that was trained for the
    run's target, if one was, is put under the same noise and attack.

    Args:
        folder: the folder of the run.
        data: its data.
        progress: called with (attack, inputs done, inputs in all).

    Warns of what cannot be measured: the training has ended well, whatever comes after it.

    Returns:
        The metrics. ``upper_reason`` in ``lipschitz`` says why there is no upper end.

    Raises:
        RunError: the folder is in use, or two figures contradict each other.
    """
    try:
        return _measured(folder, data, progress)
    except RunError:
        raise
    except ValueError as error:
        warnings.warn(f"the trained network was not measured: {error}", CheaplipWarning, stacklevel=2)
        return folder.read_json("metrics.json")


def _measured(folder: RunFolder, data: Data, progress: Callable[[str, int, int], None] | None) -> dict[str, Any]:
    metrics = folder.read_json("metrics.json")
    plain = plain_beside(folder.path, metrics)
    seconds = min(_MOST, max(_LEAST, _SHARE * sum(line["seconds"] for line in folder.history())))
    available = task_of(data).attacks(data.domain)
    for name, radius in (("noise", data.noise), (_ATTACK, data.epsilon)):
        if name not in available or robust_key(name, radius) in metrics["robust"]:
            continue
        samples = min(_INPUTS, len(data.test.x)) if name == "noise" else min(_FIRST, len(data.test.x))
        while True:
            started = time.perf_counter()
            metrics = evaluate(folder, attacks=[name], epsilons=[radius], samples=samples, data=data, progress=progress)
            taken = time.perf_counter() - started
            share = seconds / (2 if plain is None else 4)  # for each of two attacks on each network
            affordable = max(int(samples * share / taken), _CHEAP if taken < _QUICK else 0)
            more = min(_INPUTS, len(data.test.x), affordable)
            if samples >= _INPUTS or more < 2 * samples or samples == len(data.test.x) or samples > _FIRST:
                break
            samples = more
    if plain is not None:
        _attack_alike(RunFolder(plain), metrics, data, progress)
    if metrics["lipschitz"].get("upper") is None and "upper_reason" not in metrics["lipschitz"]:
        found = bracket_model(load_run(folder, data), seconds=seconds / 3)
        metrics = folder.read_json("metrics.json")
        if found["upper"] is None:
            metrics["lipschitz"]["upper_reason"] = found["reason"]
            folder.write_json("metrics.json", metrics)
    return metrics


def _attack_alike(
    plain: RunFolder, metrics: dict[str, Any], data: Data, progress: Callable[[str, int, int], None] | None
) -> None:
    """Measure a plain network under the noise and the attack that a run's metrics have, on as many inputs."""
    known = plain.read_json("metrics.json")["robust"]
    for name, radius in (("noise", data.noise), (_ATTACK, data.epsilon)):
        samples = metrics["robust_samples"].get(key := robust_key(name, radius))
        if samples is not None and key not in known:
            evaluate(plain, attacks=[name], epsilons=[radius], samples=samples, data=data, progress=progress)
