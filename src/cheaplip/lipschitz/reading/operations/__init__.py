"""What a chain is made of: one file for each family of maps, and ``activations.py`` for the elementwise functions.

Each operation evaluates in the type of its input, bounds its own Lipschitz constant from above (``lipschitz``), and
maps intervals to intervals, rounded outwards (``interval``). Affine ones also evaluate without their bias (``linear``).
Imports torch, ``spectral.py`` and ``rounding.py``. Start with ``affine.py``.
"""

from cheaplip.lipschitz.reading.operations.affine import Matrix, Nonnegative, Reshape, Scaling
from cheaplip.lipschitz.reading.operations.bent import Bent
from cheaplip.lipschitz.reading.operations.convolution import Convolution
from cheaplip.lipschitz.reading.operations.interval import Interval, Weight
from cheaplip.lipschitz.reading.operations.joins import Concatenation, Sum
from cheaplip.lipschitz.reading.operations.nonlinear import Elementwise, LipschitzMap
from cheaplip.lipschitz.reading.operations.ranged import RangedMap
from cheaplip.lipschitz.reading.operations.transposed import TransposedConvolution
from cheaplip.lipschitz.reading.operations.weighted import Weighted

__all__ = [
    "Affine",
    "Bent",
    "Concatenation",
    "Convolution",
    "Elementwise",
    "Interval",
    "LipschitzMap",
    "Matrix",
    "Nonnegative",
    "Operation",
    "RangedMap",
    "Reshape",
    "Scaling",
    "Sum",
    "TransposedConvolution",
    "Weight",
    "Weighted",
]

Affine = Matrix | Convolution | TransposedConvolution | Weighted | Scaling | Nonnegative
"""Affine maps of one value."""

Operation = Affine | Elementwise | LipschitzMap | Sum | Concatenation
"""Any link of a chain."""
