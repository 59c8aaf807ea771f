"""What a chain is made of: one file for each family of maps, and ``activations.py`` for the elementwise functions.

Each operation evaluates in the type of its input, bounds its own Lipschitz constant from above (``lipschitz``), and
maps intervals to intervals, rounded outwards (``interval``). Affine ones also evaluate without their bias (``linear``).
Imports torch, ``spectral.py`` and ``rounding.py``. Start with ``affine.py``.
"""

from cheaplip.lipschitz.reading.operations.affine import Matrix, Nonnegative, Reshape, Scaling
from cheaplip.lipschitz.reading.operations.convolution import Convolution
from cheaplip.lipschitz.reading.operations.interval import Interval, Weight
from cheaplip.lipschitz.reading.operations.joins import Concatenation, Sum
from cheaplip.lipschitz.reading.operations.nonlinear import Elementwise, LipschitzMap

__all__ = [
    "Concatenation",
    "Convolution",
    "Elementwise",
    "Interval",
    "LipschitzMap",
    "Matrix",
    "Nonnegative",
    "Operation",
    "Reshape",
    "Scaling",
    "Sum",
    "Weight",
]

Operation = Matrix | Convolution | Scaling | Nonnegative | Elementwise | LipschitzMap | Sum | Concatenation
