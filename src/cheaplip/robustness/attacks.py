"""One attack on one model: the list of attacks, the call that runs one, and the check of what it returns.

To add an attack, write a function that makes its stages, as ``sign_pgd.py`` has one, and list it in ``_STAGES``. Its
title on a page and its rank among the attacks are in ``cheaplip.report.attacks``.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.random import fork_rng

from cheaplip.domain import Box
from cheaplip.errors import CheaplipWarning
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import at_least_float32, distance
from cheaplip.robustness.autoattack import autoattack
from cheaplip.robustness.classifier import AttackableLogits, check_data, predict
from cheaplip.robustness.foolbox_attacks import fgsm, pgd
from cheaplip.robustness.sign_pgd import sign_pgd
from cheaplip.robustness.stage import Problem, Stage

__all__ = ["ATTACKS", "AttackResult", "applicable", "attack"]

_STAGES: dict[str, Callable[[Problem, Tensor], list[Stage]]] = {
    "noise": lambda _problem, _x: [],  # attack() itself adds it
    "fgsm": fgsm,
    "pgd-sign": sign_pgd,
    "pgd": pgd,
    "autoattack": autoattack,
}

ATTACKS: tuple[str, ...] = tuple(_STAGES)
"""The names that :func:`attack` knows."""


@dataclass(frozen=True)
class AttackResult:
    r"""What an attack made of its inputs.

    Attributes:
        inputs: (N, \*input); perturbed, except where the class was wrong to begin with.
        correct: (N,), bool; classified correctly, both before the attack and at ``inputs``.
    """

    inputs: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """The fraction still classified correctly, in [0, 1]."""
        return float(self.correct.double().mean())


def attack(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    domain: Box,
    seed: int = 0,
    batch_size: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    r"""Perturb each correctly classified input, to change its class.

    Every attack but ``"noise"`` moves it by at most ε in the L2 norm and keeps it inside the box. Noise keeps to
    neither the ball nor the box.

    - ``"noise"``: x + ε·N(0, 1), as in the paper. It is not a worst case.
    - ``"fgsm"``: foolbox's L2 fast gradient, one step of length ε.
    - ``"pgd-sign"``: the paper's. 100 steps of ε/8 along the sign of the gradient, each scaled back to the sphere of
      radius ε, until the class changes; clipped to the box only at the end. This attack is weak: report a strong one
      beside it.
    - ``"pgd"``: foolbox's L2 projected gradient descent, 100 steps of ε/40 from a random start; the last step counts.
    - ``"autoattack"``: AutoAttack's standard set: APGD-CE, targeted APGD-DLR, targeted FAB, and Square with 5,000
      queries, each on the inputs that withstood the others, with min(9, classes - 1) targets. The targeted DLR loss
      needs four classes: with three, the untargeted one runs instead; with two, none. Square moves windows of an
      image: inputs other than square images are laid out as one, row by row, and padded where it needs more room. If
      Square, which uses no gradients, breaks inputs that the others could not, a CheaplipWarning says so.

    An attack proves that the inputs it breaks are not robust, and nothing about the others: the accuracy it leaves is
    an upper bound of the robust accuracy. The model runs in evaluation mode; its modes, its ``.grad`` and the global
    random state are left as they were.

    Args:
        name: one of :data:`ATTACKS`.
        model: from inputs (B, \*input) to logits (B, classes).
        x, y: inputs (N, \*input) inside ``domain``, and their integer labels (N,).
        epsilon: radius of the ball, or standard deviation of the noise; at 0, ``x`` comes back as it is.
        domain: where the inputs live; for AutoAttack, one range for all features, possibly infinite.
        seed: of all randomness; the same seed gives the same result if ``batch_size`` is the same, too.
        batch_size: number of inputs attacked at once.
        progress: called with (done, total) before each batch, and at the end.

    Returns:
        The perturbed inputs, and which are still classified correctly.

    Raises:
        ValueError: an argument is out of range, or the output isn't (B, classes).
        ImportError: the attack's library is missing; the message names the install.
        RuntimeError: the attack left the ball or the box, or returned NaN.

    Reference:
        Croce and Hein 2020 (AutoAttack); Madry et al. 2018 (PGD); Bungert et al. 2021, Section 4 (``"pgd-sign"``).

    Example:
        >>> x, y = torch.tensor([[0.9, 0.1], [0.6, 0.5]]), torch.tensor([0, 0])
        >>> attack("pgd-sign", torch.nn.Identity(), x, y, epsilon=0.2, domain=Box(0.0, 1.0)).correct
        tensor([ True, False])
    """
    _check_arguments(name, x, y, epsilon, domain, batch_size)
    x, y = x.detach(), y.long()
    with evaluation_mode(model), fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(seed)  # foolbox and AutoAttack draw from the global generator
        clean = predict(model, x, batch_size) == y
        inputs, correct, withstood = x.clone(), clean.clone(), [int(clean.sum())]
        if name == "noise":
            inputs[clean] += epsilon * torch.randn_like(x)[clean]
        problem = Problem(partial(AttackableLogits.apply, model), epsilon, domain, seed)
        stages = _STAGES[name](problem, x) if epsilon else []
        total = max(len(stages), 1) * len(x)
        for number, stage in enumerate(stages, start=1):
            for rows in torch.split(correct.nonzero().squeeze(1), batch_size) if withstood[-1] else ():
                if progress is not None:
                    progress(number * len(x) - int(correct[rows[0] :].sum()), total)
                inputs[rows] = _inside(name, stage(x[rows], y[rows]), x[rows], epsilon, domain)
                correct[rows] = predict(model, inputs[rows], batch_size) == y[rows]
            withstood.append(int(correct.sum()))
        if name == "autoattack" and stages and withstood[-2] - withstood[-1] > max(1, 0.002 * len(x)):
            warnings.warn(
                f"Square, which uses no gradients, broke {withstood[-2] - withstood[-1]} inputs that AutoAttack's "
                "gradient attacks could not: the model masks its gradients, so gradient attacks overrate it; "
                "remove what masks them, such as a final activation or rounding",
                CheaplipWarning,
                stacklevel=2,
            )
        if progress is not None:
            progress(total, total)
        return AttackResult(inputs, clean & (predict(model, inputs, batch_size) == y))


def applicable(domain: Box) -> tuple[str, ...]:
    """Name the attacks that can work in ``domain``: AutoAttack needs one range for all features."""
    one_range = bool(domain.low.min() == domain.low.max()) and bool(domain.high.min() == domain.high.max())
    return ATTACKS if one_range else tuple(name for name in ATTACKS if name != "autoattack")


def _inside(name: str, perturbed: Tensor, x: Tensor, epsilon: float, domain: Box) -> Tensor:
    """Project ``perturbed`` back by what rounding has moved it out; more than that is an error of the attack."""
    # rounding moves a feature by up to eps·|x|, whatever the radius; AutoAttack computes in float32
    eps = max(torch.finfo(dtype).eps for dtype in (x.dtype, torch.float32))
    slack = 1e-4 * epsilon + eps * math.sqrt(x[0].numel()) * float(x.abs().amax())
    projected = domain.project(perturbed)
    excess, radius = (distance(at_least_float32(delta)) for delta in (perturbed - projected, projected - x))
    sound = (excess <= slack) & (radius <= epsilon + slack)  # false for NaN
    if not bool(sound.all()):
        raise RuntimeError(
            f"attack {name!r} left the box or the ball, or returned NaN, for {int((~sound).sum())} of {len(x)} inputs "
            f"at epsilon={epsilon}: look for NaN in the model's gradients; if there is none, please report this"
        )
    return domain.project(x + (projected - x).renorm(2, 0, epsilon))


def _check_arguments(name: str, x: Tensor, y: Tensor, epsilon: float, domain: Box, batch_size: int) -> None:
    if name not in ATTACKS:
        raise ValueError(f"attack: expected one of {', '.join(ATTACKS)}, got {name!r}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon}")
    check_data(x, y, batch_size)
    domain.check_shape(tuple(x.shape[1:]))
    if not domain.contains(x):
        raise ValueError(
            f"x: expected inputs inside {domain!r}, got values from {float(x.min()):g} to {float(x.max()):g}: "
            "name the box the data lives in, and normalise inside the model"
        )
    if name not in applicable(domain):
        raise ValueError("autoattack: expected one range for all features, got a box with several: use 'pgd'")
