"""What must hold between figures of one model: certified ≤ attacked ≤ clean, and AutoAttack ≤ PGD; errors reversed."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cheaplip.errors import RunError

__all__ = ["ContradictionError", "check_errors", "check_order", "read_intervals", "read_radii"]

_MISSED = 0.005  # of the inputs: what the stronger attack may miss, and the weaker one find
_ROUNDING = 1e-9


class ContradictionError(RunError):
    """Two figures of one model cannot both be true."""


def check_order(metrics: Mapping[str, Any], rows: Sequence[tuple[bool, float]]) -> None:
    """Raise unless certified ≤ AutoAttack ≤ L2-PGD ≤ clean, wherever two of them are about the same inputs.

    No attack within ε can break what is certified at ε: one input too many is a contradiction. That AutoAttack breaks
    what PGD does is experience, not mathematics: half a per cent may differ, or one input.

    Args:
        metrics: of a run, with ``robust`` and ``robust_samples``.
        rows: of each test input, whether the prediction is right, and its radius; empty: nothing is certified.

    Raises:
        ContradictionError: names both figures.
    """
    attacks = list(_attacked(metrics))
    found = {key: (attacked, count) for key, _, attacked, count in attacks}
    for key, radius, attacked, count in attacks:
        if rows:
            proved = sum(right and r > radius for right, r in rows[:count]) / count
            _check(f"certified@{radius}", proved, key, attacked, 0.0)
        weaker = key.replace("autoattack@", "pgd@")
        if weaker != key and weaker in found and found[weaker][1] == count:
            _check(key, attacked, weaker, found[weaker][0], max(_MISSED, 1 / count))
        if rows:
            _check(key, attacked, "clean", sum(right for right, _ in rows[:count]) / count, 1 / count)


def read_radii(table: str) -> list[tuple[bool, float]]:
    """Of each test input, from a ``certified.csv``: whether the prediction is right, and its radius; empty without.

    Raises:
        RunError: the file is broken.
    """
    try:
        rows = csv.DictReader(io.StringIO(table))
        return [(row["label"] == row["prediction"], float(row["radius"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"certified.csv cannot be read: {error}; write it again with 'cheaplip certify'") from error


def check_errors(metrics: Mapping[str, Any], rows: Sequence[Mapping[float, float]]) -> None:
    """Raise unless an attack's error (RMSE) is at most the certified one, on the same inputs, at the same ε or above.

    Args:
        metrics: of a run, with ``robust`` and ``robust_samples``.
        rows: of each test input, the mean squared error at worst, by ε; empty: nothing is certified.

    Raises:
        ContradictionError: names both figures.
    """
    for key, radius, attacked, count in _attacked(metrics):
        for epsilon in rows[0] if rows else ():
            if epsilon >= radius:
                proved = math.sqrt(sum(row[epsilon] for row in rows[:count]) / count)
                _check(key, attacked, f"certified@{epsilon}", proved, 1e-5 * proved)


def read_intervals(table: str) -> list[dict[float, float]]:
    """Of each test input, from a regression's ``certified.csv``, the mean squared error at worst, by ε; empty without.

    Raises:
        RunError: the file is broken.
    """
    found: dict[str, dict[float, list[float]]] = {}
    try:
        for row in csv.DictReader(io.StringIO(table)):
            errors, label = found.setdefault(row["index"], {}), float(row["label"])
            for name in row:
                if name.startswith("low@"):
                    worst = max(float(row[f"high@{name[4:]}"]) - label, label - float(row[name]))
                    errors.setdefault(float(name[4:]), []).append(worst**2)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"certified.csv cannot be read: {error}; write it again with 'cheaplip certify'") from error
    return [{epsilon: sum(several) / len(several) for epsilon, several in row.items()} for row in found.values()]


def _attacked(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, float, int]]:
    """Key, radius, figure and number of inputs of each attack that keeps to a ball, as noise does not."""
    samples = metrics.get("robust_samples") or {}
    for key, figure in (metrics.get("robust") or {}).items():
        name, _, radius = key.partition("@")
        if name != "noise" and samples.get(key) is not None:
            yield key, float(radius), figure, samples[key]


def _check(low_name: str, low: float, high_name: str, high: float, slack: float) -> None:
    if not low <= high + slack + _ROUNDING:  # also for NaN
        raise ContradictionError(
            f"{low_name} = {low:.4f} is above {high_name} = {high:.4f} on the same inputs, which cannot be: one of "
            "them is wrong; run both again, and if it stays, please report it"
        )
