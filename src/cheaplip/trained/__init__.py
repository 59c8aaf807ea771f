"""What is done with a trained model: evaluate, bracket, certify, compare, verify, export, write its card.

Each has a module of its own. ``compare.py`` also trains the models that it compares. Start with ``loading.py``, which
loads the model of a run, or one from elsewhere, together with its data.

May import the core, ``lipschitz``, ``certificate``, ``robustness``, ``data``, ``runs``, ``tracking`` and ``training``.
"""
