"""How large is Lip(f): the lower end, a fact with a witness; the upper end, proved."""

from cheaplip.bracket.bound import LipschitzBound
from cheaplip.bracket.chain import Chain, read, register_layer
from cheaplip.bracket.ends import Bracket, bracket, pairwise
from cheaplip.bracket.lower import Lower, largest_quotient

__all__ = [
    "Bracket",
    "Chain",
    "LipschitzBound",
    "Lower",
    "bracket",
    "largest_quotient",
    "pairwise",
    "read",
    "register_layer",
]
