"""What a run's folder is called within a comparison's, for those who write it and those who only read."""

import re

__all__ = ["run_name"]


def run_name(name: str, seed: int) -> str:
    """The folder of a run within a comparison's."""
    return re.sub(r"[^\w.+-]+", "-", f"{name}-seed{seed}")
