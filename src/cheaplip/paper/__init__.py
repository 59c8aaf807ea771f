"""The experiments of Bungert et al. 2021, row by row, beside the paper's numbers."""

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
"""By their names on the command line."""
