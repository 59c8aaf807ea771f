"""Objects named ``package.module:name``, as users name their own data, models and methods."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["folder_importable", "resolve"]


def resolve(spec: str, failure: type[ValueError], expected: str) -> Any:
    """The object that ``package.module:name`` names.

    Args:
        spec: the name.
        failure: what to raise.
        expected: what the name should have been, for the message.

    Raises:
        ValueError: of type ``failure``; the module cannot be imported, or has no such name.
    """
    module, _, name = spec.partition(":")
    with folder_importable():
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything when imported
            raise failure(f"cannot import {spec!r}: {error}; expected {expected}") from error


@contextmanager
def folder_importable() -> Iterator[None]:
    """Let modules of the current folder be imported."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
