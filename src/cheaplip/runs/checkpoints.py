"""Checkpoints: the last two are kept, with checksums, so that a crash at any moment leaves a sound one.

``checkpoint.safetensors`` is the newest, ``checkpoint.previous.safetensors`` the one before it. ``checkpoint.json``
lists the SHA-256 of the checkpoints written last, newest first. A file whose checksum is not listed there was cut off
or changed.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cheaplip.errors import CheaplipWarning, RunError
from cheaplip.runs.files import sync_folder, temporary, write_temporary, write_whole

__all__ = ["CHECKPOINT_FILES", "newest", "pack", "save", "unpack"]

_NEWEST, _PREVIOUS, _RECORDS = "checkpoint.safetensors", "checkpoint.previous.safetensors", "checkpoint.json"
CHECKPOINT_FILES = (_NEWEST, _PREVIOUS, _RECORDS)


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, and keep the one before it.

    The order is: the tensors, to a temporary file; the record of their checksum; two renames. After each of these
    steps there is a file whose checksum is listed.

    Args:
        folder: the folder of the run.
        state: nested dictionaries and lists of tensors and plain values.

    Raises:
        RunError: it cannot be written; the checkpoints before it are kept.
    """
    content = pack(state)
    record = {"epoch": state.get("epoch"), "step": state.get("step"), "sha256": _checksum(content)}
    path = folder / _NEWEST
    write_temporary(path, content)
    # Three records for two files: a crash before the renames leaves a record without a file.
    records = [record, *(_records(folder) or [])][:3]
    write_whole(folder / _RECORDS, (json.dumps({**record, "before": records[1:]}, indent=2) + "\n").encode())
    try:
        if path.is_file():
            path.replace(folder / _PREVIOUS)
        temporary(path).replace(path)
        sync_folder(folder)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def newest(folder: Path) -> bytes | None:
    """Read the newest sound checkpoint.

    A damaged one is skipped with a warning. A save that a crash interrupted before its last rename is completed.

    Returns:
        The content, for :func:`unpack`. None: no checkpoint was ever finished.

    Raises:
        RunError: all checkpoints are damaged.
    """
    path = folder / _NEWEST
    kept = [file for file in (path, folder / _PREVIOUS) if file.is_file()]
    records = _records(folder)
    if records is None:
        return _unrecorded(folder, kept)
    sums = {_checksum(_read(file)): file for file in (*reversed(kept), temporary(path)) if file.is_file()}
    chosen = next((record for record in records if record["sha256"] in sums), None)
    if chosen is None:
        if not kept:
            return None
        raise _all_damaged(folder, kept)
    if path in kept and path not in [sums.get(record["sha256"]) for record in records]:
        warnings.warn(
            f"{path} is damaged (its checksum is not the one in {_RECORDS}): continuing from the checkpoint before it, "
            f"epoch {chosen['epoch']}, step {chosen['step']}",
            CheaplipWarning,
            stacklevel=2,
        )
    file = sums[chosen["sha256"]]
    if file == temporary(path):
        file.replace(path)
        file = path
    return _read(file)


def _unrecorded(folder: Path, kept: list[Path]) -> bytes | None:
    """Read the newest file that can be read at all, where ``checkpoint.json`` gives no checksums."""
    if not kept:
        return None
    for file in kept:
        content = _read(file)
        try:
            unpack(content)
        except (SafetensorError, ValueError, KeyError):
            continue
        warnings.warn(
            f"{folder / _RECORDS} is missing or damaged: continuing from {file.name}, whose checksum is unknown",
            CheaplipWarning,
            stacklevel=3,
        )
        return content
    raise _all_damaged(folder, kept)


def _all_damaged(folder: Path, kept: list[Path]) -> RunError:
    return RunError(
        f"no sound checkpoint in {folder}: {' and '.join(file.name for file in kept)} cut off or changed since: "
        "restore a copy, or start again in another --out"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def _records(folder: Path) -> list[dict[str, Any]] | None:
    """Read the records of the checkpoints written, newest first; None where ``checkpoint.json`` is of no use."""
    path = folder / _RECORDS
    try:
        last = json.loads(_read(path) if path.is_file() else b"")
        records = [{name: last[name] for name in ("epoch", "step", "sha256")}, *last["before"]]
        return records if all(isinstance(record["sha256"], str) for record in records) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pack(state: Mapping[str, Any]) -> bytes:
    """Write a state as the content of one safetensors file; plain values go into its metadata, as JSON.

    Args:
        state: nested dictionaries and lists of tensors and plain values.

    Raises:
        TypeError: it holds something else.
    """
    tensors: dict[str, Tensor] = {}
    plain = _strip(state, tensors, "")
    return save_tensors(tensors, metadata={"state": json.dumps(plain)})


def unpack(content: bytes) -> dict[str, Any]:
    """Read the state that :func:`pack` wrote."""
    size = int.from_bytes(content[:8], "little")
    plain = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["state"])
    state = _restore(plain, load_tensors(content))
    assert isinstance(state, dict)
    return state


def _strip(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"$tensor": path}
    if isinstance(value, Mapping):
        return {"$items": [[key, _strip(item, tensors, f"{path}/{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_strip(item, tensors, f"{path}/{i}") for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot store {path}: expected tensors and plain values, got {type(value).__name__}")


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        return {key: _restore(item, tensors) for key, item in value["$items"]}
    return [_restore(item, tensors) for item in value] if isinstance(value, list) else value
