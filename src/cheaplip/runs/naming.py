"""The names of runs' folders inside other folders: those of a comparison, and of the plain network beside a run.

They are here, and not in ``trained/compare.py``, because the report looks for the same folders and imports ``runs``
alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["REFERENCE", "plain_beside", "run_name"]

REFERENCE = "reference"
"""The folder, inside that of a run, of the plain network that its target was found from."""


def run_name(name: str, seed: int) -> str:
    """Return the name of the folder for a configuration's run with one seed, such as ``clip-seed0``."""
    return re.sub(r"[^\w.+-]+", "-", f"{name}-seed{seed}")


def plain_beside(run: Path, metrics: Mapping[str, Any]) -> Path | None:
    """Return the folder of the plain network that the target of a finished run was found from.

    Args:
        run: the folder of the run.
        metrics: its ``metrics.json``.

    Returns:
        The folder, with metrics in it. None: the target was named, or found from a run that is elsewhere. A network
        that an earlier run in the same folder left there does not count.
    """
    aim = metrics.get("aim")
    inside = isinstance(aim, dict) and aim.get("reference_run") == REFERENCE
    return run / REFERENCE if inside and (run / REFERENCE / "metrics.json").is_file() else None
