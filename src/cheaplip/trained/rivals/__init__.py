"""All training methods beside each other at one accuracy: which fit the model, what they reach, what they cost.

Start with ``training.py:rivals``; ``field.py`` finds out which methods can take part.

May import what ``cheaplip.trained`` may.
"""

from cheaplip.trained.rivals.field import Field, field_of
from cheaplip.trained.rivals.training import LEFT_OUT, rivals

__all__ = ["LEFT_OUT", "Field", "field_of", "rivals"]
