"""Files written whole or not at all: aside, synced, renamed, and the folder synced too."""

import os
from pathlib import Path

from cheaplip.errors import RunError

__all__ = ["aside", "sync_folder", "write_aside", "write_whole"]


def aside(path: Path) -> Path:
    """Where the content of ``path`` is written before it takes its place."""
    return path.with_name(f".{path.name}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, now or after a crash, sees the old content or the new.

    Raises:
        RunError: no space left, no permission, no folder; the old content is still there.
    """
    write_aside(path, content)
    try:
        aside(path).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_aside(path: Path, content: bytes) -> None:
    """Write and sync the content, beside ``path``.

    Raises:
        RunError: as for :func:`write_whole`.
    """
    part = aside(path)
    try:
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            part.unlink(missing_ok=True)  # half a file only takes room
            raise
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power cut, where folders can be synced (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
