"""Certificates: proofs of what no small perturbation of an input can change.

- ``radius.py``: certified radii, accuracies and intervals, and what exactly they prove. Start here.
- ``certified.py``: ``Certified``, a model that returns each prediction with its radius, for serving and export.
- ``content.py``: checksums by which ``Certified`` notices that its weights, its domain or its bounds were changed.
- ``constants.py``: keeps the constants of an exported program in float64.

May import the core and ``lipschitz``.
"""

from cheaplip.certificate.certified import Certified
from cheaplip.certificate.local import check_local
from cheaplip.certificate.radius import (
    certified_accuracy,
    certified_interval,
    certified_predictions,
    certified_radius,
)

__all__ = [
    "Certified",
    "certified_accuracy",
    "certified_interval",
    "certified_predictions",
    "certified_radius",
    "check_local",
]
