"""Writing a file completely or not at all: to a temporary file, which is synced and then renamed."""

import os
from pathlib import Path

from cheaplip.errors import RunError

__all__ = ["sync_folder", "temporary", "write_temporary", "write_whole"]


def temporary(path: Path) -> Path:
    """Return the temporary file that holds the new content of ``path`` until it is renamed."""
    return path.with_name(f".{path.name}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees either the old or the new content, even after a crash.

    Raises:
        RunError: the disk is full, or the folder is missing or read-only; the old content is kept.
    """
    write_temporary(path, content)
    try:
        temporary(path).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_temporary(path: Path, content: bytes) -> None:
    """Write and sync the temporary file of ``path``.

    Raises:
        RunError: the disk is full, or the folder is missing or read-only.
    """
    part = temporary(path)
    try:
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            part.unlink(missing_ok=True)  # half a file is of no use and takes up space
            raise
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power failure, where folders can be synced (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
