"""Train any PyTorch model to be stable, cheaply; say honestly how stable it is; prove what can be proved."""

from cheaplip.certificate import Certified, certified_accuracy, certified_interval, certified_radius
from cheaplip.clip import CLIP, ScaleFreeCLIP
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.domain import Ball, Box
from cheaplip.errors import BatchDependentLayerError, CheaplipWarning, UnsupportedLayerError
from cheaplip.lipschitz import LipschitzBound
from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.margin import MarginLoss
from cheaplip.pairs import PairSet
from cheaplip.partners import Partners

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
    "MarginLoss",
    "PairSet",
    "Partners",
    "ScaleFreeCLIP",
    "UnsupportedLayerError",
    "bracket",
    "certified_accuracy",
    "certified_interval",
    "certified_radius",
]
__version__ = "0.1.0"
