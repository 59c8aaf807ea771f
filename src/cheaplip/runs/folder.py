"""A run's folder: configuration, history, metrics, model and checkpoint, each written whole or not at all."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

import cheaplip
from cheaplip.errors import RunError
from cheaplip.runs import checkpoints
from cheaplip.runs.files import write_whole
from cheaplip.runs.locks import locked

__all__ = ["RunFolder", "versions"]

_FILES = (  # in the order they are removed: what is left after a crash is a run that can be continued, or none
    "metrics.json",
    "model.safetensors",
    "witness.safetensors",
    "certified.csv",
    "card.json",
    "card.md",
    "command.json",
    "mlflow.json",
    "report.json",
    "report.html",
    "history.jsonl",
    *checkpoints.CHECKPOINT_FILES,
    "config.json",
)


class RunFolder:
    """Reads and writes the files of one run.

    ``config.json``: everything needed to run it again. ``history.jsonl``: one line an epoch. ``metrics.json``: the
    results. ``model.safetensors``: the trained weights. ``checkpoint.safetensors`` with ``checkpoint.json``, and
    ``checkpoint.previous.safetensors``: all state, to resume. ``witness.safetensors``: the pair with the largest
    quotient found. ``report.json``: what a report shows of the model; ``command.json``: the command that made the run.
    ``certified.csv``: a radius for each test input. ``card.json`` and ``card.md``: the model card.
    ``mlflow.json``: where the run is tracked. Nothing is ever
    unpickled.
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
            if not overwrite and not _vacant(self.path):
                raise RunError(
                    f"output folder {self.path} exists and is not empty: "
                    "choose another --out, or say --overwrite, or continue it with --resume"
                )
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to output folder {self.path}: {error.strerror or error}") from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder, which is made if need be.

        Raises:
            RunError: another process is at work in it.
        """
        return locked(self.path)

    def exists(self) -> bool:
        """Whether there is a run here."""
        return (self.path / "config.json").is_file()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the run's JSON files; NaN and infinities become null."""
        self._write(name, (json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n").encode())

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``results.json``, the rows of a comparison."""
        self._write("results.json", (json.dumps(_finite(rows), indent=2, ensure_ascii=False) + "\n").encode())

    def write_text(self, name: str, content: str) -> None:
        """Write one of the run's other text files."""
        self._write(name, content.encode())

    def read_text(self, name: str) -> str:
        """The content of one of the run's text files; "" where there is none.

        Raises:
            RunError: it cannot be read.
        """
        return self.read_bytes(name).decode(errors="replace") if (self.path / name).is_file() else ""

    def read_bytes(self, name: str) -> bytes:
        """The content of one of the run's files.

        Raises:
            RunError: it is missing or cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise RunError(f"no {name} in {self.path}") from None
        except OSError as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error

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
        """Add an epoch to ``history.jsonl``.

        Raises:
            RunError: it cannot be written.
        """
        path = self.path / "history.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(_finite(line)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error

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

    def write_history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace ``history.jsonl``: a resumed run knows no more epochs than its checkpoint."""
        self._write("history.jsonl", "".join(json.dumps(_finite(line)) + "\n" for line in lines).encode())

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
        """Write all state, see :func:`cheaplip.runs.checkpoints.save`."""
        checkpoints.save(self.path, state)

    def load_checkpoint(self) -> bytes | None:
        """The newest sound checkpoint, see :func:`cheaplip.runs.checkpoints.newest`."""
        return checkpoints.newest(self.path)

    def _read_tensors(self, name: str) -> dict[str, Tensor]:
        try:
            return load_tensors((self.path / name).read_bytes())
        except FileNotFoundError:
            raise RunError(f"no {name} in {self.path}") from None
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content)


def _vacant(folder: Path) -> bool:
    """Whether a folder holds nothing but work in progress: what a crash before the first file leaves."""
    return all(
        _vacant(path) if path.is_dir() else path.name == ".lock" or path.suffix == ".part" for path in folder.iterdir()
    )


def _storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, none sharing memory with another (weight tying), as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def versions() -> dict[str, str]:
    """The versions a run's numbers depend on."""
    return {"cheaplip": cheaplip.__version__, "torch": torch.__version__, "python": platform.python_version()}
