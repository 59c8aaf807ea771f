"""Train PyTorch models with a small Lipschitz constant, bracket that constant, and certify predictions.

Start with :class:`CLIP`, the penalty for training, :func:`bracket`, which returns lower ≤ Lip(f) ≤ upper, and
:func:`certified_radius`. Importing this package needs torch alone; everything else is an extra, imported where it is
used.
"""

from cheaplip.certificate import Certified, certified_accuracy, certified_interval, certified_radius
from cheaplip.clip import CLIP, ScaleFreeCLIP
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.domain import Ball, Box
from cheaplip.errors import BatchDependentLayerError, CheaplipWarning, UnsupportedLayerError
from cheaplip.lipschitz import LipschitzBound
from cheaplip.lipschitz.bracket import Bracket, bracket, pairwise
from cheaplip.margin import MarginLoss
from cheaplip.pairs import PairSet
from cheaplip.partners import Partners
from cheaplip.reference import reference_target

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
    "pairwise",
    "reference_target",
]
__version__ = "0.1.0"
