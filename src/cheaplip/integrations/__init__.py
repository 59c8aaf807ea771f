"""Adapters to other training frameworks: Lightning, scikit-learn (by skorch) and transformers.

An adapter decides when the penalty is added and when λ moves; the core does both. ``lazy.py`` holds what the adapters
share: pairs that are made from the first batch. A module for each framework needs the extra of its name. Imports the
core alone.
"""
