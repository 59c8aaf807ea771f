"""The training of all methods that fit, and what each costs relative to plain training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import DivergedError
from cheaplip.runs.folder import RunFolder
from cheaplip.tracking import Tracker
from cheaplip.trained.compare import Attack, compare
from cheaplip.trained.rivals.field import Field, one_line
from cheaplip.training.methods.plain import Plain
from cheaplip.training.progress import Progress

__all__ = ["LEFT_OUT", "rivals"]

LEFT_OUT = "left-out.json"
"""The file beside ``results.json`` that says which methods were left out, and why."""


def rivals(
    field: Field,
    seeds: Sequence[int],
    data: Data,
    out: Path,
    *,
    attacks: Sequence[Attack],
    certify_at: Sequence[float] = (),
    progress: Callable[[str], Progress] | None = None,
    attacking: Callable[[str, str, int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    overwrite: bool = False,
    trackers: Callable[[RunFolder], Sequence[Tracker]] = lambda _: (),
) -> list[dict[str, Any]]:
    """Train and attack every method that fits, and write what each costs relative to plain training.

    A method whose training diverges is left out, too. What is finished is kept, as in
    :func:`cheaplip.trained.compare.compare`.

    Args:
        field: the methods, see :func:`field_of`.
        seeds, data, out, attacks, certify_at, progress, attacking, stop, overwrite, trackers: as in
            :func:`cheaplip.trained.compare.compare`.

    Returns:
        The rows of ``results.json``; ``seconds_relative`` is the time of an epoch divided by that of plain training
        with the same seed, where there is one.
    """
    left_out = dict(field.left_out)

    def diverged(name: str, error: DivergedError) -> None:
        left_out[name] = one_line(error)

    rows = compare(
        field.configs,
        seeds,
        data,
        out,
        attacks=attacks,
        certify_at=() if field.unproved else certify_at,
        progress=progress,
        attacking=attacking,
        stop=stop,
        overwrite=overwrite,
        trackers=trackers,
        diverged=diverged,
    )
    rows = [{**row, **_relative(row, rows)} for row in rows]
    folder = RunFolder(out)
    with folder.locked():
        folder.write_rows(rows)
        folder.write_json(LEFT_OUT, left_out)
    return rows


def _relative(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    plain = next((one for one in rows if one["method"] == Plain.name and one["seed"] == row["seed"]), None)
    if plain is None or not plain["seconds_per_epoch"] > 0:
        return {}
    return {"seconds_relative": row["seconds_per_epoch"] / plain["seconds_per_epoch"]}
