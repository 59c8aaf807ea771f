"""What is learnt: classes (classification) or numbers (regression). All that differs between the two is here.

Start with ``task.py``, which lists what a task must provide; ``classification.py`` and ``regression.py`` provide it.

May import the core, ``lipschitz``, ``certificate``, ``robustness``, ``data``, and of training the modules ``models``,
``pgd``, ``consistency`` and ``certified_csv``.
"""

from cheaplip.data import Data
from cheaplip.training.tasks.classification import Classification
from cheaplip.training.tasks.regression import InLabelUnits, Regression
from cheaplip.training.tasks.task import Certificate, Task

__all__ = ["TASKS", "Certificate", "Classification", "InLabelUnits", "Regression", "Task", "task_of"]

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}
"""The tasks, by name."""


def task_of(data: Data) -> Task:
    """Return the task that the labels of a data set are for."""
    return TASKS[data.task]
