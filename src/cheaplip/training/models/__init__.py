"""Models by name: how a name becomes a module, and the families that it can name.

Start with ``building.py:build``. The families: ``perceptrons.py`` (``mlp:WIDTHS``, ``linear``), ``convolutional.py``
(``cnn``, ``2c2f``, ``4c3f``) and ``residual.py`` (``resnet:DEPTH,WIDTH``). ``activations.py`` has what stands between
their layers. To add a model, write a function in the file of its family, and a line in ``building.py``.

May import the core and ``data``.
"""

from cheaplip.training.models.activations import Activation, FullSort, MaxMin
from cheaplip.training.models.building import FinalActivation, build, check_model, is_perceptron

__all__ = ["Activation", "FinalActivation", "FullSort", "MaxMin", "build", "check_model", "is_perceptron"]
