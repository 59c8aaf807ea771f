"""Train any PyTorch model to be stable, cheaply; say honestly how stable it is; prove what can be proved."""

from cheaplip.clip import CLIP
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.domain import Box
from cheaplip.errors import BatchDependentLayerError, CheaplipWarning
from cheaplip.pairs import PairSet

__all__ = ["CLIP", "BatchDependentLayerError", "Box", "CheaplipWarning", "DiscrepancyPrinciple", "PairSet"]
__version__ = "0.1.0"
