"""Where a training's course can be followed, beside its folder: TensorBoard, MLflow."""

from cheaplip.tracking.mlflow import MLflow
from cheaplip.tracking.tensorboard import TensorBoard
from cheaplip.tracking.tracker import Tracker, pictures, tracked

__all__ = ["MLflow", "TensorBoard", "Tracker", "pictures", "tracked"]
