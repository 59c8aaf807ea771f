"""Where a training's course can be followed, beside its folder: TensorBoard, MLflow."""

from cheaplip.experiments.tracking.mlflow import MLflow
from cheaplip.experiments.tracking.tensorboard import TensorBoard
from cheaplip.experiments.tracking.tracker import Tracker, pictures, tracked

__all__ = ["MLflow", "TensorBoard", "Tracker", "pictures", "tracked"]
