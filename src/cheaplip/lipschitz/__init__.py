"""How large the Lipschitz constant is: a lower end that a search finds, an upper end that is proved.

``reading`` turns a model into a chain of maps; ``bounds`` holds the upper ends, ``search`` the lower ones;
``bracket.py`` joins both, and is where to start reading. Imports the core alone.
"""

from cheaplip.lipschitz.bounds.trainable import LipschitzBound
from cheaplip.lipschitz.bracket import Bracket, pairwise
from cheaplip.lipschitz.reading.chain import Chain, read, register_layer
from cheaplip.lipschitz.search.lower import Lower, largest_quotient

__all__ = ["Bracket", "Chain", "LipschitzBound", "Lower", "largest_quotient", "pairwise", "read", "register_layer"]
