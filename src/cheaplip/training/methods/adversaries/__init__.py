"""Methods that train on perturbed inputs and cost less than projected gradient ascent, and TRADES.

Each file has a method and its options; start with ``fgsm.py``. What moves the inputs is in
``cheaplip.training.pgd``, and their radius in ``cheaplip.training.methods.adversarial``, which is the method with many
steps.

May import what ``cheaplip.training.methods`` may, and of it the modules ``method`` and ``adversarial``.
"""
