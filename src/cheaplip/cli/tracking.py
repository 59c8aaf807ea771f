"""The options of experiment tracking: TensorBoard and MLflow."""

from dataclasses import dataclass

from cheaplip.runs.folder import RunFolder
from cheaplip.tracking import MLflow, TensorBoard, Tracker

__all__ = ["TrackingOptions"]


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Where the figures of each epoch are written besides the run's folder."""

    tensorboard: bool = False
    """write event files for TensorBoard into the run's folder"""
    mlflow: str | None = None
    """address of the MLflow server or store to track to, such as http://localhost:5000"""

    def trackers(self, folder: RunFolder) -> list[Tracker]:
        """Make the trackers that the options ask for.

        Raises:
            ImportError: the package of one of them is missing.
        """
        chosen: list[Tracker] = []
        if self.tensorboard:
            chosen.append(TensorBoard(folder.path / "tensorboard"))
        if self.mlflow is not None:
            chosen.append(MLflow(self.mlflow, folder.path))
        return chosen
