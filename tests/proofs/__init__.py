"""The contract suite for proofs: random models, and judges of what cheaplip says about them.

- ``layers.py``: every kind of layer, by name, made to fit its input.
- ``models.py``: a seed → a model with weights, a domain and a norm. Seeds of one family share an architecture.
- ``judges.py``: largest slopes, jumps and changes of class, found in float64 without cheaplip.
- ``rational.py``: piecewise linear networks in rational arithmetic, where nothing is rounded.
- ``semidefinite.py``: the optimum of LipSDP, from a solver.
- ``examine.py``: asks cheaplip about a model, and lets the judges look for a statement that is false.

``test_proofs.py`` examines five hundred models, ``benchmarks/soundness.py`` as many as it is told.
"""
