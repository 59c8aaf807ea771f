"""The penalty: λ times the largest difference quotient of a model.

Start reading at ``penalty``, the module :class:`CLIP`. ``aggregate`` makes one number of the quotients of all pairs;
``shared_pass`` says how one forward and one backward pass serve the batch and the pairs. ``scale_free`` divides the
outputs by the constant instead of adding a penalty.
"""

from cheaplip.clip.aggregate import Aggregate
from cheaplip.clip.penalty import CLIP
from cheaplip.clip.scale_free import ScaleFreeCLIP

__all__ = ["CLIP", "Aggregate", "ScaleFreeCLIP"]
