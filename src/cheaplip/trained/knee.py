"""The knee of a curve of gains over costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from cheaplip.training.methods.plain import Plain
from cheaplip.training.tasks import TASKS

__all__ = ["knee", "knee_of"]


def knee(costs: Sequence[float], gains: Sequence[float]) -> int | None:
    """Find the knee of a curve that rises steeply and then less so.

    Both axes are scaled to [0, 1]; the knee is the point that lies furthest above the line from the first to the last.

    Args:
        costs: what each point costs, in any order.
        gains: what it gains.

    Returns:
        Its index. None: no point lies above that line.

    Reference:
        Satopää et al. 2011, Finding a "Kneedle" in a Haystack.
    """
    if len(costs) < 3:
        return None
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i]))
    first, last = order[0], order[-1]
    width, height = costs[last] - costs[first], gains[last] - gains[first]
    if width <= 0 or height <= 0:
        best = max(order, key=lambda i: gains[i])
        least = min(gains) if width <= 0 else gains[first]
        return best if gains[best] > least else None
    above = {i: (gains[i] - gains[first]) / height - (costs[i] - costs[first]) / width for i in order}
    best = max(order, key=lambda i: above[i])
    return best if above[best] > 1e-9 else None


def knee_of(rows: Sequence[Mapping[str, Any]], method: str, attack: str) -> str | None:
    """Find the knee of a method's curve, which begins at the plain network.

    Args:
        rows: of ``results.json``.
        method: the name of the method.
        attack: the key of the figure under attack, which is gained.

    Returns:
        The name of its row. None: there is no knee.
    """
    task = next(task for task in TASKS.values() if task.figure in rows[0])
    sign = 1.0 if task.mode == "max" else -1.0
    curve = [row for row in rows if row["method"] in (Plain.name, method)]
    at = knee(
        [-sign * row[task.figure]["test"] for row in curve],
        [sign * row["robust"][attack] for row in curve],
    )
    return None if at is None else str(curve[at]["name"])
