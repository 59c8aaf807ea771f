"""Calls of the operating system that fail, as they do on a broken disk."""


def disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def read_only(*_: object) -> None:
    raise OSError(30, "Read-only file system")


def no_locks(*_: object) -> None:
    raise OSError(37, "No locks available")
