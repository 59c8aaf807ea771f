"""The name of a run's folder inside the folder of a comparison.

It is here, and not in ``trained/compare.py``, because the report looks for the same folders and imports ``runs`` alone.
"""

import re

__all__ = ["run_name"]


def run_name(name: str, seed: int) -> str:
    """Return the name of the folder for a configuration's run with one seed, such as ``clip-seed0``."""
    return re.sub(r"[^\w.+-]+", "-", f"{name}-seed{seed}")
