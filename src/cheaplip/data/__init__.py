"""Data sets: where they come from, how they are read, checked, scaled and split.

Start with ``load`` in ``sources.py``; ``dataset.py`` says what a data set is. There is a reader for each format:
``arrays.py`` (``.npz``), ``table.py`` (``.csv``), ``images.py`` (a folder of images), ``idx.py`` (MNIST). To add a
format, write another reader and call it in ``sources.py``, which also says which formats have a label column and are
scaled unless told otherwise.

May import the core alone.
"""

from cheaplip.data.dataset import Data, Split
from cheaplip.data.sources import load

__all__ = ["Data", "Split", "load"]
