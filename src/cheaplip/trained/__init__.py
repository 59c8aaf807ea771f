"""What is done with a trained model: evaluate, bracket, certify, compare, verify, export, a model card.

A module for each; ``subject.py`` loads the model of a run, or one from elsewhere. Imports the core, ``lipschitz``,
``data``, ``runs`` and ``training``.
"""
