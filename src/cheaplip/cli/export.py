"""``cheaplip export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cheaplip.cli.console import Interrupt, messages
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.export import Format, export

__all__ = ["ExportCommand"]


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Export the model of a finished run to one file that works without cheaplip, and write model-card.json."""

    run: Annotated[Path, tyro.conf.Positional]
    """the run's folder"""
    data: str | None = None
    """where the run's data are now, if they have moved"""
    format: Format = "pt2"
    """pt2, for torch.export.load, or onnx"""

    def __call__(self, interrupt: Interrupt) -> None:  # noqa: ARG002 - over in seconds
        """Export the model, then print where the file is."""
        messages.print(f"model: {export(RunFolder(self.run), self.format, source=self.data)}", soft_wrap=True)
