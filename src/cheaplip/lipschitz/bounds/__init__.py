"""Upper bounds of Lip(f), computed from a chain.

- ``products.py``: products of norms; ``ranges.py``: interval arithmetic, which narrows slopes over a domain.
- ``lipsdp.py``: bounds from multipliers (one positive number for each neuron), proved by eliminating one layer after
  the other (``layer.py``, ``elimination.py``); ``interior_point.py`` and ``descent.py`` find good multipliers.
- ``exact.py``: the exact constant of small piecewise linear networks.
- ``published/``: bounds of other authors, to compare with.
- ``best.py``: the smallest of all bounds that apply; ``cuts.py`` divides a model into parts that are bounded apart.
- ``trainable.py``: ``LipschitzBound``, differentiable; ``trainable_lipsdp.py`` is its bound of one part.

Imports ``reading/``, ``spectral.py``, ``rounding.py`` and the core; never ``search/``. Start with ``best.py``.
"""
