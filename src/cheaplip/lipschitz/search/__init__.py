"""Lower ends of Lip(f): a search for two inputs with a large quotient, which are the proof.

- ``lower.py``: ``largest_quotient``, the whole search; pairs of inputs climb, and the best are evaluated in float64.
- ``scoring.py``: the quotients of the best pairs, and how much rounding may have added; ``arithmetic.py``: evaluates
  models in float64, or with deliberate rounding errors.
- ``steepest.py``: points compete for the steepest slope; the best become pairs.
- ``switching.py``: where activations switch, and the steps to there, for the points to try.
- ``clever.py``: estimates from random slopes, which are no bounds; ``extremes.py``: the law that they fit.
- ``space.py``: domain, scale and random source of a search; ``budget.py``: its steps and seconds.

Imports ``reading/``, ``rounding.py`` and the core; never ``bounds/``. Start with ``lower.py``.
"""
