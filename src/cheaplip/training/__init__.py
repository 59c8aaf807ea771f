"""Training: options in, a trained network out.

``run.py`` is one run, ``loop.py`` its steps, ``methods/`` what each training method adds to the loss, ``tasks/`` what
differs between classes and numbers, ``steering.py`` where λ is moved. Imports the core, ``lipschitz``, ``data``,
``runs`` and ``tracking``.
"""

from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train

__all__ = ["TrainConfig", "train"]
