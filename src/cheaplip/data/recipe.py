"""``Recipe``: what was learnt from a source when it was first read, so that a run reads it in the same way for ever."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cheaplip.data.scaling import Scaler
from cheaplip.data.tables.encoding import TableEncoding
from cheaplip.domain import Box
from cheaplip.errors import CheaplipWarning, DataError

__all__ = ["Recipe", "part_digest", "row_digests", "scaler_of", "scaling_json", "warn_of_change"]

_LOST = -1  # the place of a row that is not there
_DIGITS = 16  # hexadecimal digits of a row's digest


@dataclass(frozen=True)
class Recipe:
    """How a source was read, scaled and split; the content of a run's ``data.json``.

    Attributes:
        source: the name of the data.
        sha256: SHA-256 of the rows of all parts, before scaling; it tells whether two runs have the same data.
        description: what was read, in three lines.
        classes, features: names of the classes and of the features; empty where the source has none.
        columns: what each column of a table becomes, see :class:`TableEncoding`; None for other sources.
        scaling: ``{"kind", "mean", "deviation"}``: inputs are (x − mean) / deviation. None: they are the source's.
        labels: ``{"mean", "deviation"}``: labels are (y − mean) / deviation, output by output. None: they are the
            source's, as a single label is.
        box: ``{"low", "high"}``, the domain.
        radii: ``{"epsilon", "noise"}``, the default radii of attacks and of noise.
        parts: how many rows the training, the validation and the test part have. Empty: the source splits itself.
        rows: the digests of the rows of these parts in their order, 16 hexadecimal digits each.
    """

    source: str
    sha256: str
    description: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    columns: list[dict[str, Any]] | None = None
    scaling: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None
    box: dict[str, Any] | None = None
    radii: dict[str, float] | None = None
    parts: tuple[int, ...] = ()
    rows: str = ""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Recipe":
        """Read a recipe back from the content of ``data.json``.

        Raises:
            DataError: it is not one.
        """
        try:
            content = {"labels": None, **content}  # version 0.1.0 scaled none
            known: dict[str, Any] = {name: content[name] for name in (field.name for field in fields(cls))}
            known |= {name: tuple(known[name]) for name in ("description", "classes", "features", "parts")}
            recipe = cls(**known)
            if len(recipe.rows) != _DIGITS * sum(recipe.parts) or len(recipe.parts) not in (0, 3):
                raise ValueError("parts and rows that do not fit each other")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"data.json: expected what cheaplip train wrote, got something else: {error}") from error
        return recipe

    @property
    def encoding(self) -> TableEncoding | None:
        """What the columns of a table become."""
        return None if self.columns is None else TableEncoding.from_json(self.columns)

    @property
    def domain(self) -> Box | None:
        """The box of the inputs."""
        return None if self.box is None else Box(_tensor(self.box["low"]), _tensor(self.box["high"]))

    def holds(self, digests: Sequence[str]) -> bool:
        """Return whether a source's rows are those of the recipe, in any order."""
        return sorted(digests) == sorted(
            self.rows[start : start + _DIGITS] for start in range(0, len(self.rows), _DIGITS)
        )

    def find_rows(self, digests: Sequence[str], source: str) -> list[Tensor]:
        """Find the rows of a source that were split when it was first read; new ones are warned of and left out.

        Args:
            digests: those of the rows that are there now.
            source: where they are now, for messages.

        Returns:
            The rows of the training, the validation and the test part, each in its old order.

        Raises:
            DataError: rows are missing or changed.
        """
        places = defaultdict(list)
        for row, digest in enumerate(digests):
            places[digest].append(row)
        for same in places.values():
            same.reverse()  # the first is taken first
        wanted = [self.rows[start : start + _DIGITS] for start in range(0, len(self.rows), _DIGITS)]
        found = [places[digest].pop() if places[digest] else _LOST for digest in wanted]
        lost, new = found.count(_LOST), sum(map(len, places.values()))
        if lost:
            tests = found[-self.parts[2] :].count(_LOST)
            raise DataError(
                f"{source}: expected the {len(wanted):,} rows that the run was trained on, got {len(digests):,}: "
                f"{lost:,} of the run's rows ({tests:,} of them test rows) changed or missing, {new:,} new; "
                "name the file that holds them with --data, or train again"
            )
        if new:
            warnings.warn(
                f"{source}: {new:,} rows are new since the run was trained; they are left out, and its own "
                f"{len(wanted):,} rows and its own scaling are used",
                CheaplipWarning,
                stacklevel=4,
            )
        return list(torch.split(torch.tensor(found), list(self.parts)))

    def with_rows(self, digests: Sequence[str], parts: Sequence[Tensor]) -> "Recipe":
        """Return the recipe with a source's rows and their split into training, validation and test part."""
        rows = "".join(digests[row] for part in parts for row in part.tolist())
        counts = tuple(len(part) for part in parts)
        sha256 = hashlib.sha256(f"{counts} {rows}".encode()).hexdigest()
        return replace(self, parts=counts, rows=rows, sha256=sha256)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``data.json``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def row_digests(x: NDArray[Any], y: NDArray[Any]) -> list[str]:
    r"""Return a digest of each row: its inputs and its label, as the source has them.

    Args:
        x, y: inputs (N, \*shape) and labels (N,) or (N, k).
    """
    kind = f"{x.dtype} {x.shape[1:]};".encode()
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y, dtype=np.float64)
    return [
        hashlib.blake2b(kind + x[row].tobytes() + y[row].tobytes(), digest_size=_DIGITS // 2).hexdigest()
        for row in range(len(x))
    ]


def part_digest(parts: Sequence[Tensor]) -> str:
    """Return the SHA-256 of tensors, with their shapes."""
    digest = hashlib.sha256()
    for tensor in parts:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def warn_of_change(source: str) -> None:
    """Warn that data which come split and scaled are not those that a run was trained on."""
    warnings.warn(
        f"{source}: the data have changed since the run was trained; figures are about the data as they are now",
        CheaplipWarning,
        stacklevel=4,
    )


def scaling_json(kind: str, scaler: Scaler) -> dict[str, Any]:
    """Write a scaler as the entry ``scaling`` of a recipe."""
    return {"kind": kind, "mean": scaler.mean.tolist(), "deviation": scaler.deviation.tolist()}


def scaler_of(scaling: dict[str, Any]) -> Scaler:
    """Read a scaler back from the entry ``scaling`` of a recipe."""
    return Scaler(
        torch.tensor(scaling["mean"], dtype=torch.float64), torch.tensor(scaling["deviation"], dtype=torch.float64)
    )


def _tensor(value: Any) -> float | Tensor:
    return float(value) if isinstance(value, (int, float)) else torch.tensor(value, dtype=torch.float32)
