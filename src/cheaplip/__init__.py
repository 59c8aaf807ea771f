"""Train any PyTorch model to be stable, cheaply; say honestly how stable it is; prove what can be proved."""

from cheaplip.certificate import Certified, certified_accuracy, certified_interval, certified_radius
from cheaplip.clip import CLIP
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.domain import Ball, Box
from cheaplip.errors import BatchDependentLayerError, CheaplipWarning, UnsupportedLayerError
from cheaplip.lipschitz import LipschitzBound
from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.pairs import PairSet

__all__ = [
    "CLIP",
    "Ball",
    "BatchDependentLayerError",
    "Box",
    "Bracket",
    "Certified",
    "CheaplipWarning",
    "DiscrepancyPrinciple",
    "LipschitzBound",
    "PairSet",
    "UnsupportedLayerError",
    "bracket",
    "certified_accuracy",
    "certified_interval",
    "certified_radius",
]
__version__ = "0.1.0"
