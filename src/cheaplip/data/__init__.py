"""Data: where it comes from, how it is read, checked, scaled and split, and what a data set is.

``load`` in ``sources.py`` is where to start reading; a new file format is a reader beside ``table.py`` and a line in
``sources.py``. Imports the core alone.
"""

from cheaplip.data.dataset import Data, Split
from cheaplip.data.sources import load

__all__ = ["Data", "Split", "load"]
