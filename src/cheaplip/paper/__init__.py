"""The experiments of Bungert et al. 2021, repeated row by row and shown beside the paper's numbers.

An :class:`~cheaplip.paper.experiment.Experiment` is a list of units that run by themselves, and a table of the rows
they leave. :mod:`~cheaplip.paper.reproduce` runs the units; each experiment has a file of its own, except the three
tables of classification, which share ``classification_tables.py``. The package imports the library, data, training,
runs and what is done with trained models. It does not import the command line or the report.

Start with :mod:`~cheaplip.paper.experiment`, then read :mod:`~cheaplip.paper.regression`, the smallest experiment.
"""

from cheaplip.paper.classification_tables import README, TABLE1_FASHION, TABLE1_MNIST
from cheaplip.paper.experiment import Experiment
from cheaplip.paper.figure1 import FIGURE1
from cheaplip.paper.path import PATH
from cheaplip.paper.regression import REGRESSION
from cheaplip.paper.reproduce import reproduce

__all__ = ["EXPERIMENTS", "reproduce"]

EXPERIMENTS: dict[str, tuple[Experiment, ...]] = {
    "regression": (REGRESSION,),
    "figure1": (FIGURE1,),
    "table1": (TABLE1_MNIST, TABLE1_FASHION),
    "table1-mnist": (TABLE1_MNIST,),
    "table1-fashion-mnist": (TABLE1_FASHION,),
    "readme": (README,),
    "path": (PATH,),
    "all": (REGRESSION, PATH, FIGURE1, TABLE1_MNIST, README, TABLE1_FASHION),
}
"""The experiments that ``cheaplip reproduce NAME`` runs, by name."""
