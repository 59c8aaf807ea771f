"""How a training shows its progress: the figures in a few characters, and a bar in a notebook."""

import html
import importlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from cheaplip.runs.workers import Report

__all__ = ["Progress", "in_few_characters", "notebook_bar", "notebook_report"]

Progress = Callable[[int, int, dict[str, float]], None]
"""A callback: (steps done, steps in all, figures of the last epoch)."""

_PAUSE = 0.2  # seconds between two changes of a bar in a notebook, at least
_FIGURES = {
    f"{part}_{name}": short
    for part, short in {"train": "train", "validation": "val"}.items()
    for name in ("accuracy", "rmse")
}
_SHOWN = {**_FIGURES, "lam": "λ", "largest": "L"}


def in_few_characters(line: Mapping[str, float]) -> str:
    """Write the main figures of an epoch, such as ``train 0.97 val 0.95 λ 0.1``."""
    return " ".join(f"{label} {line[key]:.3g}" for key, label in _SHOWN.items() if line.get(key) is not None)


def notebook_bar(title: str) -> Callable[[float, str], None] | None:
    """Return a function that shows the fraction done and a note as a bar in the cell that is running.

    The cell gets one output, which changes; it needs no package that a notebook does not have. It appears with the
    first call.

    Args:
        title: what is done.

    Returns:
        The function, or None where this is no notebook: a script's output and its logs stay empty.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    display: Any = importlib.import_module("IPython.display").display
    handle: Any = None
    changed = 0.0

    def update(fraction: float, note: str) -> None:
        nonlocal handle, changed
        now = time.monotonic()
        if handle is not None and fraction < 1 and now - changed < _PAUSE:
            return
        changed = now
        text = f"{title} {100 * fraction:.0f} % {note}".rstrip()
        bar = f"<progress value='{fraction:.4f}' max='1' style='width:20em'></progress> {html.escape(text)}"
        shown = {"text/plain": text, "text/html": bar}
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    return update


def notebook_report(title: str, pieces: int) -> Report:
    """Return a report on several pieces of work that shows one bar for all of them in a notebook; elsewhere nothing.

    Args:
        title: what is done.
        pieces: their number.
    """
    show, done = notebook_bar(title), dict[str, float]()

    def report(name: str, fraction: float, note: str) -> None:
        done[name] = fraction
        if show is not None:
            show(sum(done.values()) / pieces, f"{name} {note}".rstrip() if fraction < 1 else "")

    return report
