"""Training: options go in, a trained network comes out.

Start with ``run.py`` (``train``, one run from its options to its folder), then ``loop.py`` (the steps of a run).
``config.py`` holds the options, ``methods/`` what each training method minimises, ``tasks/`` what differs
between classification and regression, ``models.py`` the architectures, ``targets.py`` what a target asks of λ,
``consistency.py`` the checks between the figures of one model.

May import the core, ``lipschitz``, ``certificate``, ``robustness``, ``data``, ``runs`` and ``tracking``.
"""

from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train

__all__ = ["TrainConfig", "train"]
