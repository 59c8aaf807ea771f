"""A run's folder: configuration, history, metrics, model and checkpoint, each written whole or not at all."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

import cheaplip

__all__ = ["RunError", "RunFolder", "versions"]

_FILES = (
    "config.json",
    "history.jsonl",
    "metrics.json",
    "model.safetensors",
    "checkpoint.safetensors",
    "checkpoint.json",
    "witness.safetensors",
    "command.json",
    "report.json",
    "report.html",
)


class RunError(ValueError):
    """A run's folder is missing, in the way, or holds something that is not a run."""


class RunFolder:
    """Reads and writes the files of one run.

    ``config.json``: everything needed to run it again. ``history.jsonl``: one line an epoch. ``metrics.json``: the
    results. ``model.safetensors``: the trained weights. ``checkpoint.safetensors`` with ``checkpoint.json``: all
    state, to resume. ``witness.safetensors``: the pair with the largest quotient found. ``report.json``: what a report
    shows of the model; ``command.json``: the command that made the run. Nothing is ever unpickled.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder, empty of a run's files; other files in it are never touched.

        Raises:
            RunError: it exists and is not empty (without ``overwrite``), or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(path for path in self.path.iterdir() if path.suffix != ".part") and not overwrite:
                raise RunError(
                    f"output folder {self.path} exists and is not empty: "
                    "choose another --out, or say --overwrite, or continue it with --resume"
                )
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to output folder {self.path}: {error.strerror or error}") from error

    def exists(self) -> bool:
        """Whether there is a run here."""
        return (self.path / "config.json").is_file()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the run's JSON files; NaN and infinities become null."""
        self._write(name, (json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n").encode())

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``results.json``, the rows of a comparison."""
        self._write("results.json", (json.dumps(_finite(rows), indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises:
            RunError: it is missing or broken.
        """
        try:
            content = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise RunError(f"no {name} in {self.path}: expected the folder of a run made by 'cheaplip train'") from None
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error
        if not isinstance(content, dict):
            raise RunError(f"{self.path / name}: expected a JSON object, got {type(content).__name__}")
        return content

    def append_history(self, line: Mapping[str, Any]) -> None:
        """Add an epoch to ``history.jsonl``."""
        with (self.path / "history.jsonl").open("a") as file:
            file.write(json.dumps(_finite(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def history(self) -> list[dict[str, Any]]:
        """All epochs so far; a last line cut off by a crash is left out.

        Raises:
            RunError: a line before the last is broken.
        """
        path = self.path / "history.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        epochs = []
        for number, line in enumerate(lines, start=1):
            try:
                epochs.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise RunError(f"cannot read {path}, line {number}: {error}") from error
        return epochs

    def cut_history(self, epochs: int) -> None:
        """Keep the first ``epochs`` lines: those a checkpoint knows of."""
        lines = self.history()[:epochs]
        self._write("history.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())

    def save_model(self, model: nn.Module) -> None:
        """Write the weights."""
        self._write("model.safetensors", save_tensors(_storable(model.state_dict())))

    def load_model(self, model: nn.Module) -> None:
        """Load the weights into ``model``.

        Raises:
            RunError: the file is missing, broken, or of another model.
        """
        tensors = self._read_tensors("model.safetensors")
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                f"{self.path / 'model.safetensors'} does not fit the model of config.json: {error}"
            ) from error

    def save_witness(self, u: Tensor, v: Tensor) -> None:
        """Write the pair with the largest quotient found."""
        self._write("witness.safetensors", save_tensors(_storable({"u": u, "v": v})))

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write nested dictionaries and lists of tensors and plain values.

        Tensors go first, under a name of their own that the JSON file carries, so that the pair is never mixed.
        """
        tensors: dict[str, Tensor] = {}
        plain = _strip(state, tensors, "")
        self._write("checkpoint.safetensors", save_tensors(tensors, metadata={"state": json.dumps(plain)}))
        self.write_json("checkpoint.json", {"epoch": state.get("epoch"), "step": state.get("step")})

    def load_checkpoint(self) -> dict[str, Any]:
        """Read what :meth:`save_checkpoint` wrote.

        Raises:
            RunError: there is none, or it is broken.
        """
        tensors = self._read_tensors("checkpoint.safetensors")
        header = _metadata(self.path / "checkpoint.safetensors")
        state = _restore(json.loads(header["state"]), tensors)
        assert isinstance(state, dict)
        return state

    def _read_tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return load_tensors((self.path / name).read_bytes())
        except FileNotFoundError:
            raise RunError(f"no {name} in {self.path}") from None
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error

    def _write(self, name: str, content: bytes) -> None:
        """Write aside, sync, rename: a reader sees the old file or the new one."""
        aside = self.path / f".{name}.part"
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.path / name)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror or error}") from error


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata: dict[str, str] = json.loads(file.read(size))["__metadata__"]
    return metadata


def _storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, none sharing memory with another (weight tying), as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def versions() -> dict[str, str]:
    """The versions a run's numbers depend on."""
    return {"cheaplip": cheaplip.__version__, "torch": torch.__version__, "python": platform.python_version()}
