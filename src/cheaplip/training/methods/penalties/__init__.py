"""Penalties of others, a class each: the loss plus λ times gradients, quotients along edges, or norms of weights.

Start with ``jacobian.py``, the shortest one. ``input_gradients.py`` has what the penalties on gradients share. A method
here derives from ``Penalised`` in ``methods/penalised.py``, and so is steered by the same rule to the same accuracy.

May import what ``cheaplip.training.methods`` may, and from that package all but its ``__init__``.
"""
