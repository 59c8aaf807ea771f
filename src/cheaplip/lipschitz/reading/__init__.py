"""Reading a model: from a module to a chain of known operations.

- ``chain.py``: the chain as data, and its form as matrices and slopes.
- ``operations/``: what a chain is made of.
- ``layers/``: which layers can be read. To add a layer type, start with ``layers/registry.py``.
- ``tracer.py``: ``read``, which walks the graph that torch.export makes; ``graph.py`` holds what it has read so
  far, and ``fusing.py`` simplifies it.

Imports ``spectral.py`` and ``rounding.py`` beside it, and the core; never ``bounds/`` or ``search/``. Start with
``tracer.py``.
"""
