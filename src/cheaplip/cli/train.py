"""``cheaplip train``."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cheaplip.cli.console import (
    Interrupt,
    attack_bar,
    messages,
    metrics_table,
    print_json,
    progress_display,
    show_description,
    show_table,
    training_bar,
)
from cheaplip.cli.options import command_line, load_data
from cheaplip.cli.report import finish_with_report
from cheaplip.cli.tracking import TrackingOptions
from cheaplip.errors import ConfigError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.naming import plain_beside
from cheaplip.trained.quick import measure_quickly
from cheaplip.training import TrainConfig, train
from cheaplip.training.aim import missed
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
    measure: bool = True
    """after training, measure noise, PGD and both ends of the bracket, in less time than the training took"""
    json: bool = False
    """print the metrics as JSON, and nothing else, on standard output"""

    def __call__(self, interrupt: Interrupt) -> None:
        """Train the model, then print the metrics."""
        if self.resume and self.overwrite:
            raise ConfigError("resume: expected to continue the run or to --overwrite it: leave one of them out")
        if self.config.named_target is not None and self.config.give_up != TrainConfig(data="").give_up:
            raise ConfigError(
                f"target: λ follows one target, got --target {self.config.target} and --give-up {self.config.give_up}: "
                "leave one of them out"
            )
        folder = RunFolder(self.out)
        trackers = self.trackers(folder)
        with processes(self.config.resolved_device), progress_display() as bar:
            data = load_data(self.config, folder if self.resume else None)
            metrics = train(
                self.config,
                data,
                folder,
                resume=self.resume,
                overwrite=self.overwrite,
                progress=training_bar(bar, self.config.method) if leads() else None,
                stop=interrupt,
                trackers=trackers,
                on_start=lambda: show_description(data),
                reference_progress=training_bar(bar, "plain, for the target") if leads() else None,
            )
        if not metrics:  # the first process has them
            return
        if self.measure:
            with progress_display() as bar:
                attacking = attack_bar(bar, interrupt)
                metrics = measure_quickly(folder, data, progress=partial(attacking, self.config.method))
        if self.json:
            print_json(metrics)
        else:
            plain = plain_beside(folder.path, metrics)
            beside = None if plain is None else RunFolder(plain).read_json("metrics.json")
            show_table(metrics_table(self.config.method, metrics, beside))
            if problem := missed(metrics):
                messages.print(f"[yellow]{problem}[/]")
        finish_with_report(folder, command_line("train", self))
