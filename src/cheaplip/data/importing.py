"""Import of objects named ``package.module:name``, the way users name their own data, models and methods."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["current_folder_importable", "import_object"]


def import_object(spec: str, failure: type[ValueError], expected: str) -> Any:
    """Import the object that ``package.module:name`` names; the current folder is importable.

    Args:
        spec: ``package.module:name``.
        failure: the type of the error to raise.
        expected: what the name should have been, for the error's message.

    Raises:
        ValueError: an error of type ``failure``: the module cannot be imported, or has no such name.
    """
    module, _, name = spec.partition(":")
    with current_folder_importable():
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything when imported
            raise failure(f"cannot import {spec!r}: {error}; expected {expected}") from error


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Make the modules of the current folder importable inside the block."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
