"""What is learnt: classes, or numbers. Everything that differs between the two is said here, once."""

from cheaplip.experiments.tasks.classification import Classification
from cheaplip.experiments.tasks.regression import Regression, Standardised
from cheaplip.experiments.tasks.task import Certificate, Task

__all__ = ["TASKS", "Certificate", "Classification", "Regression", "Standardised", "Task"]

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}
"""By name."""
