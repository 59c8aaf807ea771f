"""``RunFolder``: reads and writes the files of one run."""

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
from cheaplip.runs.json_text import MOST_BYTES, parse
from cheaplip.runs.locks import locked

__all__ = ["RunFolder", "versions"]

_FILES = (  # removed in this order: a crash in between leaves a run that can be continued, or no run
    "metrics.json",
    "model.safetensors",
    "witness.safetensors",
    "certified.csv",
    "card.json",
    "card.md",
    "command.json",
    "mlflow.json",
    "aim.json",
    "row.json",
    "report.json",
    "report.html",
    "history.jsonl",
    *checkpoints.CHECKPOINT_FILES,
    "data.json",
    "config.json",
)


class RunFolder:
    """Read and write the files of one run, or of a comparison of several runs.

    Nothing is ever unpickled. The files of a run:

    - ``config.json``: everything needed to run it again;
    - ``data.json``: how its data were read, scaled and split;
    - ``history.jsonl``: a line of figures for each epoch;
    - ``metrics.json``: the results;
    - ``model.safetensors``: the trained weights;
    - ``checkpoint.safetensors``, ``checkpoint.previous.safetensors``, ``checkpoint.json``: the state to resume from;
    - ``witness.safetensors``: the pair of inputs with the largest quotient found;
    - ``report.json``: what a report shows of the model; ``report.html``: the report;
    - ``command.json``: the command that made the run;
    - ``certified.csv``: a radius, or intervals, for each test input; ``card.json``, ``card.md``: the model card;
    - ``mlflow.json``: where the run is tracked;
    - ``row.json``: its row of a frontier;
    - ``aim.json``: the target that was found from a plain network, whose run is in the folder ``reference``.

    A comparison has ``results.json``, a row for each run, and the folders of its runs.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def check_vacant(self) -> None:
        """Check that nothing is in the way of a new run; nothing is written.

        Raises:
            RunError: the folder exists and is not empty.
        """
        if self.path.is_dir() and not _vacant(self.path):
            raise RunError(
                f"output folder {self.path} exists and is not empty: "
                "choose another --out, replace the run with --overwrite, or continue it with --resume"
            )

    def create(self, *, overwrite: bool = False) -> None:
        """Make the folder.

        Args:
            overwrite: delete the files of a run that is there already; other files are never touched.

        Raises:
            RunError: the folder exists and is not empty (without ``overwrite``), or cannot be made.
        """
        if not overwrite:
            self.check_vacant()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to output folder {self.path}: {error.strerror or error}") from error

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder against other processes inside a ``with`` block; it is made if it is missing.

        Raises:
            RunError: another process holds the lock.
        """
        return locked(self.path)

    def exists(self) -> bool:
        """Return whether the folder holds a run."""
        return (self.path / "config.json").is_file()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file; NaN and infinities become null."""
        self._write(name, (json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n").encode())

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``results.json``, the rows of a comparison; NaN and infinities become null."""
        self._write("results.json", (json.dumps(_finite(rows), indent=2, ensure_ascii=False) + "\n").encode())

    def write_text(self, name: str, content: str) -> None:
        """Write a text file."""
        self._write(name, content.encode())

    def read_text(self, name: str) -> str:
        """Read a text file; return "" where there is none.

        Raises:
            RunError: it cannot be read.
        """
        return self.read_bytes(name).decode(errors="replace") if (self.path / name).is_file() else ""

    def read_bytes(self, name: str) -> bytes:
        """Read a file.

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
        """Read a JSON file that holds an object.

        Raises:
            RunError: it is missing or broken, see :func:`cheaplip.runs.json_text.parse`.
        """
        try:
            with (self.path / name).open("rb") as file:
                content = parse(file.read(MOST_BYTES + 1))
        except (FileNotFoundError, NotADirectoryError):
            problem = f"{self.path} is a file" if self.path.is_file() else f"no {name} in {self.path}"
            raise RunError(f"{problem}: expected the folder of a run made by 'cheaplip train'") from None
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error
        if not isinstance(content, dict):
            raise RunError(f"{self.path / name}: expected a JSON object, got {type(content).__name__}")
        return content

    def append_history(self, line: Mapping[str, Any]) -> None:
        """Append the line of an epoch to ``history.jsonl``.

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
        """Read the lines of all epochs so far; a last line that a crash cut off is left out.

        Raises:
            RunError: a line before the last is broken.
        """
        path = self.path / "history.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        epochs = []
        for number, line in enumerate(lines, start=1):
            try:
                epochs.append(parse(line.encode()))
            except ValueError as error:
                if number < len(lines):
                    raise RunError(f"cannot read {path}, line {number}: {error}") from error
        return epochs

    def write_history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace ``history.jsonl``; a resumed run has only the epochs that its checkpoint knows."""
        self._write("history.jsonl", "".join(json.dumps(_finite(line)) + "\n" for line in lines).encode())

    def save_model(self, model: nn.Module) -> None:
        """Write the weights of a model."""
        self._write("model.safetensors", save_tensors(_storable(model.state_dict())))

    def load_model(self, model: nn.Module) -> None:
        """Load the weights into ``model``.

        Raises:
            RunError: the file is missing or broken, or its weights are those of another model.
        """
        tensors = self._read_tensors("model.safetensors")
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            problem = " ".join(str(error).split())
            raise RunError(
                f"{self.path / 'model.safetensors'} does not fit the model of config.json: {problem}"
            ) from error

    def save_witness(self, u: Tensor, v: Tensor) -> None:
        """Write the pair of inputs with the largest quotient found."""
        self._write("witness.safetensors", save_tensors(_storable({"u": u, "v": v})))

    def load_witness(self) -> tuple[Tensor, Tensor]:
        """Read the pair of inputs with the largest quotient found.

        Raises:
            RunError: there is none, or its file is damaged.
        """
        pair = self._read_tensors("witness.safetensors")
        return pair["u"], pair["v"]

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, see :func:`cheaplip.runs.checkpoints.save`."""
        checkpoints.save(self.path, state)

    def load_checkpoint(self) -> bytes | None:
        """Read the newest sound checkpoint, see :func:`cheaplip.runs.checkpoints.newest`."""
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
    """Return whether a folder holds only locks and temporary files, as after a crash before the first file."""
    return all(
        _vacant(path) if path.is_dir() else path.name == ".lock" or path.suffix == ".part" for path in folder.iterdir()
    )


def _storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU so that none shares memory with another (tied weights), as safetensors requires."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run's numbers depend on."""
    return {"cheaplip": cheaplip.__version__, "torch": torch.__version__, "python": platform.python_version()}
