"""Data sets: where they come from, how they are read, checked, scaled and split.

Start with ``load`` in ``sources.py``; ``dataset.py`` says what a data set is. There is a reader for each format:
``arrays.py`` (``.npz``), ``tables/`` (text files, parquet, data frames), ``images.py`` (a folder of images). Each
returns a ``RawData``, which ``prepare.py`` makes into a data set. ``named/`` reads the sets that go by a name, such as
MNIST. ``recipe.py`` is what a run keeps of that. To add a format, write another reader and call it in ``sources.py``,
which also says which formats have a label column.

May import the core alone.
"""

from cheaplip.data.dataset import Data, Split
from cheaplip.data.reading import Reading
from cheaplip.data.recipe import Recipe
from cheaplip.data.sources import load

__all__ = ["Data", "Reading", "Recipe", "Split", "load"]
