"""The lock of a run's folder: one process at a time."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cheaplip.errors import CheaplipWarning, InUseError, RunError

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no such locks: nothing stops a second process there
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]

_REFUSED = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder inside the block; the folder is made if it is missing.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        InUseError: another process holds the lock.
        RunError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"cannot write to output folder {folder}: {error.strerror or error}") from error
    try:
        _acquire(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _REFUSED:
            raise InUseError(
                f"another process is at work in {folder}: wait until it is done, stop it, or choose another --out"
            ) from error
        if error.errno not in _NO_LOCKS:
            raise RunError(f"cannot lock {folder}: {error.strerror or error}") from error
        warnings.warn(
            f"the file system of {folder} has no locks: make sure that no second process writes there",
            CheaplipWarning,
            stacklevel=3,
        )
