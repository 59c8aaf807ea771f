"""The Lipschitz training set: pairs of inputs that climb towards the largest difference quotient of a model.

Start reading at ``pair_set``, the set itself. ``drawing`` says where new pairs come from, ``climbing`` how pairs move.
"""

from cheaplip.pairs.climbing import Climb
from cheaplip.pairs.drawing import Start
from cheaplip.pairs.pair_set import PairSet

__all__ = ["Climb", "PairSet", "Start"]
