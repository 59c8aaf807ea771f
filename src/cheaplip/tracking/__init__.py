"""Follows a training in TensorBoard or MLflow, besides its own folder.

A training calls the methods of a :class:`~cheaplip.tracking.tracker.Tracker`; start there. Imports the errors, the
domain and how a run's files are written; the packages tensorboard and mlflow only when they are used.
"""

from cheaplip.tracking.mlflow import MLflow
from cheaplip.tracking.tensorboard import TensorBoard
from cheaplip.tracking.tracker import Tracker, pictures, tracked

__all__ = ["MLflow", "TensorBoard", "Tracker", "pictures", "tracked"]
