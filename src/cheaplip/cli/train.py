"""``cheaplip train``."""

from dataclasses import dataclass
from pathlib import Path

from cheaplip.cli.console import Interrupt, metrics_table, print_json, progress_display, show_table, training_bar
from cheaplip.cli.options import command_line, load_data
from cheaplip.cli.report import finish_with_report
from cheaplip.cli.tracking import TrackingOptions
from cheaplip.runs.folder import RunFolder
from cheaplip.training import TrainConfig, train
from cheaplip.training.processes import leads, processes

__all__ = ["TrainCommand"]


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrackingOptions):
    """Train one model and write its run's folder; with torchrun -m cheaplip train … in several processes."""

    config: TrainConfig
    out: Path
    """the folder of the run; it must be empty, or not exist yet"""
    resume: bool = False
    """continue from the folder's last checkpoint"""
    overwrite: bool = False
    """replace a run that is already in --out"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Train the model, then print the metrics."""
        folder = RunFolder(self.out)
        trackers = self.trackers(folder)
        with processes(self.config.resolved_device), progress_display() as bar:
            data = load_data(self.config)
            metrics = train(
                self.config,
                data,
                folder,
                resume=self.resume,
                overwrite=self.overwrite,
                progress=training_bar(bar, self.config.method) if leads() else None,
                stop=interrupt,
                trackers=trackers,
            )
        if not metrics:  # the first process has them
            return
        print_json(metrics) if self.json else show_table(metrics_table(self.config.method, metrics))
        finish_with_report(folder, command_line("train", self))
