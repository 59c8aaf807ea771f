"""What is learnt: classes, or numbers. Everything that differs between the two is said here, once."""

from cheaplip.data import Data
from cheaplip.training.tasks.classification import Classification
from cheaplip.training.tasks.regression import Regression, Standardised
from cheaplip.training.tasks.task import Certificate, Task

__all__ = ["TASKS", "Certificate", "Classification", "Regression", "Standardised", "Task", "task_of"]

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}
"""By name."""


def task_of(data: Data) -> Task:
    """The task that a data set's labels ask for."""
    return TASKS[data.task]
