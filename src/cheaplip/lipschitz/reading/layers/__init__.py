"""The layer types that can be read: a file for each family, joined in ``registry.py``, which says how to add one.

``handler.py`` holds what the families share; ``registered.py`` reads layers of the user's own, registered with
:func:`cheaplip.lipschitz.register_layer`. Imports ``graph.py``, ``chain.py`` and ``operations/``.
"""
