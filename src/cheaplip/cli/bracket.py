"""``cheaplip bracket``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cheaplip.cli.console import Interrupt, print_json, progress_display, search_bar, show_table
from cheaplip.cli.options import check_seconds, parse_norm, parse_numbers
from cheaplip.cli.report import update_report
from cheaplip.cli.trained_model import TrainedModelOptions
from cheaplip.domain import Box
from cheaplip.errors import ConfigError
from cheaplip.lipschitz.bounds.best import BOUNDS
from cheaplip.lipschitz.bracket import ESTIMATES
from cheaplip.trained.bracket import SECONDS, bracket_model, bracket_onnx
from cheaplip.training.options import check_choice

__all__ = ["BracketCommand"]


@dataclass(frozen=True, kw_only=True)
class BracketCommand(TrainedModelOptions):
    """Bracket the Lipschitz constant of a trained model: lower ≤ Lip(f) ≤ upper.

    For a run, in norm 2, both ends are added to its metrics.json and its report. A .onnx file needs no data.
    """

    norm: str = "2"
    """norm of inputs and outputs: 2, 1 or inf"""
    method: str | None = None
    """the method of the upper bound, such as lipsdp, norms, exact, autolip, seqlip, combettes-pesquet or zou; clever
    estimates the constant, and bounds nothing; unset: the best bound"""
    seconds: float = SECONDS
    """time for both ends, about"""
    box: str | None = None
    """smallest and largest value of the inputs of a .onnx file without --data, such as 0,1; unset: all of space"""
    json: bool = False
    """print both ends as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Bracket the model, then print both ends."""
        norm = parse_norm(self.norm)
        if self.method is not None:
            check_choice("method", self.method, (*BOUNDS, *ESTIMATES))
        check_seconds(self.seconds)
        if self.run.endswith(".onnx") and self.data is None:
            self._bracket_file(norm, interrupt)
            return
        if self.box is not None:
            raise ConfigError(f"box: expected with a .onnx file and no --data alone, got {self.box}: leave it out")
        trained = self.load()
        with progress_display() as bar:
            found = bracket_model(
                trained,
                norm=norm,
                method=self.method,
                seconds=self.seconds,
                progress=search_bar(bar, trained.name, interrupt),
            )
        print_json(found) if self.json else show_table(_table(trained.name, found))
        update_report(trained.folder)

    def _bracket_file(self, norm: float, interrupt: Interrupt) -> None:
        """Bracket a model of which nothing but its file is known."""
        name = Path(self.run).stem
        domain = None if self.box is None else Box(*_ends(self.box))
        with progress_display() as bar:
            found = bracket_onnx(
                Path(self.run),
                domain=domain,
                norm=norm,
                method=self.method,
                seconds=self.seconds,
                progress=search_bar(bar, name, interrupt),
            )
        print_json(found) if self.json else show_table(_table(name, found))


def _ends(text: str) -> tuple[float, float]:
    numbers = parse_numbers("box", text)
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ConfigError(f"box: expected the smallest and the largest value, such as 0,1, got {text!r}")
    return numbers[0], numbers[1]


def _table(name: str, found: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: lower ≤ Lip(f) ≤ upper")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key in ("lower", "upper", "gap"):
        table.add_row(key, "∞" if found[key] is None else f"{found[key]:.6g}")
    table.add_row("method", found["method"])
    if "estimate" in found:
        value = found["estimate"]["value"]
        table.add_row(f"{found['estimate']['name']}, an estimate, no bound", "–" if value is None else f"{value:.6g}")
    table.add_row("norm", str(found["norm"]))
    table.add_row("seconds", f"{found['seconds']:.1f}")
    if found["reason"]:
        table.add_row("reason", found["reason"])
    return table
