"""The options that follow a training beside its folder."""

from dataclasses import dataclass

from cheaplip.runs.folder import RunFolder
from cheaplip.tracking import MLflow, TensorBoard, Tracker

__all__ = ["TrackingOptions"]


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Where else to write the figures of each epoch."""

    tensorboard: bool = False
    """write event files to the run's folder, for tensorboard --logdir"""
    mlflow: str | None = None
    """track to this server or store, such as http://localhost:5000"""

    def trackers(self, folder: RunFolder) -> list[Tracker]:
        """Those asked for; their packages must be there."""
        chosen: list[Tracker] = []
        if self.tensorboard:
            chosen.append(TensorBoard(folder.path / "tensorboard"))
        if self.mlflow is not None:
            chosen.append(MLflow(self.mlflow, folder.path))
        return chosen
