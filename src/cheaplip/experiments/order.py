"""What must hold between figures of one model: certified ≤ attacked ≤ clean, and AutoAttack ≤ PGD."""

import csv
from collections.abc import Sequence
from typing import Any

from cheaplip.experiments.runs import RunError, RunFolder

__all__ = ["ContradictionError", "check_order", "read_radii"]

_MISSED = 0.005  # of the inputs: what the stronger attack may miss, and the weaker one find
_ROUNDING = 1e-9


class ContradictionError(RunError):
    """Two figures of one model cannot both be true."""


def check_order(metrics: dict[str, Any], rows: Sequence[tuple[bool, float]]) -> None:
    """Raise unless certified ≤ AutoAttack ≤ L2-PGD ≤ clean, wherever two of them are about the same inputs.

    No attack within ε can break what is certified at ε: one input too many is a contradiction. That AutoAttack breaks
    what PGD does is experience, not mathematics: half a per cent may differ, or one input.

    Args:
        metrics: of a run, with ``robust`` and ``robust_samples``.
        rows: of each test input, whether the prediction is right, and its radius; empty: nothing is certified.

    Raises:
        ContradictionError: names both figures.
    """
    robust, samples = metrics.get("robust") or {}, metrics.get("robust_samples") or {}
    for key, attacked in robust.items():
        name, _, radius = key.partition("@")
        count = samples.get(key)
        if name == "noise" or count is None:
            continue
        if rows:
            proved = sum(right and r > float(radius) for right, r in rows[:count]) / count
            _check(f"certified@{float(radius)}", proved, key, attacked, 0.0)
        if name == "autoattack" and samples.get(f"pgd@{radius}") == count:
            _check(key, attacked, f"pgd@{radius}", robust[f"pgd@{radius}"], max(_MISSED, 1 / count))
        if rows:
            _check(key, attacked, "clean", sum(right for right, _ in rows[:count]) / count, 1 / count)


def read_radii(folder: RunFolder) -> list[tuple[bool, float]]:
    """Of each test input, from ``certified.csv``: whether the prediction is right, and its radius; empty without it.

    Raises:
        RunError: the file is broken.
    """
    path = folder.path / "certified.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [(row["label"] == row["prediction"], float(row["radius"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; write it again with 'cheaplip certify'") from error


def _check(low_name: str, low: float, high_name: str, high: float, slack: float) -> None:
    if low > high + slack + _ROUNDING:
        raise ContradictionError(
            f"{low_name} = {low:.4f} is above {high_name} = {high:.4f} on the same inputs, which cannot be: one of "
            "them is wrong; run both again, and if it stays, please report it"
        )
