"""How large the Lipschitz constant of a model is: a lower end that a search finds, an upper end that is proved.

- ``reading/``: a model → a chain of known operations. To add a layer type, see ``reading/layers/registry.py``.
- ``bounds/``: a chain → an upper bound; also one to train with.
- ``search/``: a model → two inputs with a large quotient.
- ``bracket.py``: joins both ends, with ``checks.py`` for its arguments. Start here.
- ``fingerprint.py``: what a bound was proved for; ``pair_bounds.py``: bounds for pairs of classes that carry it.
- ``certifiable.py``: what ``cheaplip.certificate`` needs of a bracket, with checks that model and inputs fit it.
- ``spectral.py``: norms of matrices and convolutions; ``rounding.py``: the margins that make results safe.

Imports the core alone. The function is ``cheaplip.bracket``; ``cheaplip.lipschitz.bracket`` is its module.
"""

from cheaplip.lipschitz.bounds.trainable import LipschitzBound
from cheaplip.lipschitz.bracket import Bracket, pairwise
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.layers.registered import register_layer
from cheaplip.lipschitz.reading.tracer import read
from cheaplip.lipschitz.search.clever import Estimate, clever_score
from cheaplip.lipschitz.search.lower import Lower, largest_quotient

__all__ = [
    "Bracket",
    "Chain",
    "Estimate",
    "LipschitzBound",
    "Lower",
    "clever_score",
    "largest_quotient",
    "pairwise",
    "read",
    "register_layer",
]
