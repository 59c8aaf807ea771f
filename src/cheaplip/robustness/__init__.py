"""Accuracy under noise and attack: one call for the paper's own attack and those of foolbox and AutoAttack.

Start reading at ``attacks``, which lists the attacks, runs one and checks what it returns. Each attack stands in a file
of its own: ``sign_pgd`` (the paper's), ``foolbox_attacks``, ``autoattack``; ``corruptions`` know nothing of the model.
``classifier`` is about the model under attack: its logits, its accuracy, and what would make an attack on it
unreliable. To add an attack, write a function that makes its stages, as these files do, and list it in ``attacks``.

Needs the extra ``cli``: ``pip install 'cheaplip[cli]'``.
"""

from cheaplip.robustness.attacks import ATTACKS, CORRUPTIONS, NEAREST, AttackResult, applicable, attack
from cheaplip.robustness.classifier import accuracy, check_classifier

__all__ = ["ATTACKS", "CORRUPTIONS", "NEAREST", "AttackResult", "accuracy", "applicable", "attack", "check_classifier"]
