"""Upper bounds of Lip(f) that others have published, each rounded upwards, to compare with.

- ``seqlip.py``: neighbouring layers taken together, two by two (Scaman and Virmaux); ``scaled.py``: what it shares with
- ``combettes_pesquet.py``: norms of products of neighbouring layers, averaged over all ways to cut the network.
- ``zou.py``: products of norms, with Bessel bounds of convolutions (Zou, Balan and Singh).

AutoLip, the product of norms, is :func:`cheaplip.lipschitz.bounds.products.norm_product`. Imports ``reading/``,
``rounding.py`` and the modules of ``bounds/``; ``bounds/best.py`` calls it, where one is asked for by name. Start with
``seqlip.py``.
"""
