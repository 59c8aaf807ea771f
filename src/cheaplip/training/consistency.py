"""Checks between the figures of one model: certified ≤ attacked ≤ clean accuracy; for errors the other way round."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cheaplip.errors import RunError
from cheaplip.robustness import CORRUPTIONS

__all__ = ["ROUNDING", "ContradictionError", "check_accuracies", "check_errors"]

ROUNDING = 1e-9
"""The difference that rounding may make between two figures that are equal."""

_MISSED = 0.005  # fraction of the inputs that AutoAttack may fail to break though PGD does
_INTERVAL_ROUNDING = 1e-5  # relative; predictions under attack are float32, certified intervals are not


class ContradictionError(RunError):
    """Two figures of one model cannot both be true."""


def check_accuracies(metrics: Mapping[str, Any], rows: Sequence[tuple[bool, float]]) -> None:
    """Check that certified ≤ AutoAttack ≤ L2-PGD ≤ clean accuracy, wherever two of them are about the same inputs.

    No attack within ε can break what is certified at ε: a single such input is a contradiction. That AutoAttack breaks
    every input that PGD breaks is experience, not mathematics: half a percent of the inputs may differ, or one input.

    Args:
        metrics: the metrics of a run, with ``robust`` and ``robust_samples``.
        rows: for each test input, whether the prediction is right, and its certified radius; empty if nothing is
            certified.

    Raises:
        ContradictionError: two figures contradict each other; the message names them.
    """
    attacks = list(_attacks(metrics))
    found = {key: (attacked, count) for key, _, attacked, count in attacks}
    for key, radius, attacked, count in attacks:
        if rows and not _other_norm(key):
            certified = sum(right and r > radius for right, r in rows[:count]) / count
            _check_at_most(f"certified@{radius}", certified, key, attacked, 0.0)
        weaker = key.replace("autoattack", "pgd", 1)
        if weaker != key and weaker in found and found[weaker][1] == count:
            _check_at_most(key, attacked, weaker, found[weaker][0], max(_MISSED, 1 / count))
        if rows:
            clean = sum(right for right, _ in rows[:count]) / count
            _check_at_most(key, attacked, "clean", clean, 1 / count)


def check_errors(metrics: Mapping[str, Any], rows: Sequence[Mapping[float, float]]) -> None:
    """Check that an attack's error (RMSE) is at most the error certified for the same inputs at the same or a larger ε.

    Args:
        metrics: the metrics of a run, with ``robust`` and ``robust_samples``.
        rows: for each test input, the largest mean squared error within each ε; empty if nothing is certified.

    Raises:
        ContradictionError: two figures contradict each other; the message names them.
    """
    for key, radius, attacked, count in _attacks(metrics):
        for epsilon in rows[0] if rows and not _other_norm(key) else ():
            if epsilon >= radius:
                certified = math.sqrt(sum(row[epsilon] for row in rows[:count]) / count)
                _check_at_most(key, attacked, f"certified@{epsilon}", certified, _INTERVAL_ROUNDING * certified)


def _attacks(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, float, int]]:
    """Yield the key, radius, figure and number of inputs of each attack; corruptions have no radius."""
    samples = metrics.get("robust_samples") or {}
    for key, figure in (metrics.get("robust") or {}).items():
        name, _, radius = key.partition("@")
        if name not in CORRUPTIONS and samples.get(key) is not None:
            yield key, float(radius), figure, samples[key]


def _other_norm(key: str) -> bool:
    """Whether the radius of an attack is not Euclidean, as those of certificates are."""
    return key.partition("@")[0].endswith("-linf")


def _check_at_most(low_name: str, low: float, high_name: str, high: float, slack: float) -> None:
    if not low <= high + slack + ROUNDING:  # "not" because a NaN must be refused as well
        raise ContradictionError(
            f"{low_name} = {low:.4f} is above {high_name} = {high:.4f} on the same inputs, which cannot be: one of "
            "them is wrong; run both again, and if this happens again, please report it"
        )
