"""The penalty: λ times the largest difference quotient of a model.

Start reading at ``penalty``, the module :class:`CLIP`. ``aggregate`` makes one number of the quotients of all pairs;
``shared_pass`` says how one forward and one backward pass serve the batch and the pairs.
"""

from cheaplip.clip.aggregate import Aggregate
from cheaplip.clip.penalty import CLIP

__all__ = ["CLIP", "Aggregate"]
