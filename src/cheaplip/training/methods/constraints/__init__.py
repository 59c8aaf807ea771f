"""Methods that keep the Lipschitz constant small by what the layers may be, or by a bound in the loss.

Each file has a method and its options. Start with ``groupsort.py`` for 1-Lipschitz layers, of which ``orthogonal.py``
takes care, or with ``spectral.py``, which projects weights after each step. ``deep_spline.py`` trains the activations.

May import what ``cheaplip.training.methods`` may, and from that package all but its ``__init__``.
"""
