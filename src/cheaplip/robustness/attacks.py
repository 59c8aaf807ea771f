"""One attack on one model: the list of attacks, the call that runs one, and the check of what it returns.

To add an attack, write a function that makes its stages, as ``sign_pgd.py`` has one, and list it in ``_STAGES``. Its
title on a page and its rank among the attacks are in ``cheaplip.report.attacks``.
"""

import math
import warnings
from collections.abc import Callable, Sequence
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
from cheaplip.robustness.batches import MOST, Reporting, fitting_batch_size, in_parts
from cheaplip.robustness.classifier import AttackableLogits, check_inputs, checked_prediction, predict
from cheaplip.robustness.corruptions import blur, brightness
from cheaplip.robustness.foolbox_attacks import fgsm, fmn, pgd
from cheaplip.robustness.sign_pgd import sign_pgd
from cheaplip.robustness.stage import Problem, Stage

__all__ = ["ATTACKS", "CORRUPTIONS", "NEAREST", "AttackResult", "applicable", "attack"]

_STAGES: dict[str, Callable[[Problem, Tensor], list[Stage]]] = {
    "noise": lambda _problem, _x: [],  # attack() itself adds it
    "fgsm": fgsm,
    "pgd-sign": sign_pgd,
    "pgd": pgd,
    "fmn": fmn,
    "autoattack": autoattack,
    "blur": blur,
    "brightness": brightness,
}

ATTACKS: tuple[str, ...] = tuple(_STAGES)
"""The names that :func:`attack` knows."""

CORRUPTIONS = ("noise", "blur", "brightness")
"""Those that know nothing of the model, and whose size is no radius: they leave the ball."""

NEAREST = ("fmn",)
"""Those that look for the smallest perturbation, so that one run tells of all radii."""


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

    def accuracies(self, x: Tensor, epsilons: Sequence[float], norm: float = 2) -> list[float]:
        r"""Compute the accuracy at smaller radii than that of the attack: what it broke farther away counts as right.

        For the attacks of :data:`NEAREST`, which look for near inputs. Others use up their radius.

        Args:
            x: the inputs before the attack, (N, \*input).
            epsilons: radii, up to that of the attack.
            norm: of the radii, 2 or ``math.inf``.

        Returns:
            For each radius, the fraction in [0, 1].
        """
        moved = distance(self.inputs.double() - x.double(), norm)
        return [float((self.correct | (moved > epsilon)).double().mean()) for epsilon in epsilons]


def attack(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    domain: Box,
    norm: float = 2,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    r"""Perturb each correctly classified input, to change its class.

    Every attack but the corruptions moves it by at most ε in the norm and keeps it inside the box. Noise keeps to
    neither the ball nor the box, blur and brightness to the box alone. With ``norm=math.inf`` each feature moves by at
    most ε, as in ``epsilon=8 / 255`` of images.

    - ``"noise"``: x + ε·N(0, 1), as in the paper, whatever the norm. It is not a worst case.
    - ``"blur"``: a Gaussian blur of standard deviation ε in pixels. Images only.
    - ``"brightness"``: ε added to all values, and ε taken away; both have to be classified correctly. Images only.
    - ``"fgsm"``: foolbox's fast gradient, one step of length ε.
    - ``"pgd-sign"``: the paper's, L2 alone. 100 steps of ε/8 along the sign of the gradient, each scaled back to the
      sphere of radius ε, until the class changes; clipped to the box only at the end. This attack is weak: report a
      strong one beside it.
    - ``"pgd"``: foolbox's projected gradient descent, 100 steps of ε/40 (L∞: ε/30) from a random start; the last step
      counts.
    - ``"fmn"``: foolbox's fast minimum-norm attack, three times 100 steps, of several lengths. It searches for the
      smallest perturbation that changes the class, up to ε: of an input that it breaks, ``inputs`` is about as near as
      it gets, so that one run with the largest radius tells of every smaller one, see :meth:`AttackResult.accuracies`.
    - ``"autoattack"``: AutoAttack's standard set: APGD-CE, targeted APGD-DLR, targeted FAB, and Square with 5,000
      queries, each on the inputs that withstood the others, with min(9, classes - 1) targets. The targeted DLR loss
      needs four classes: with three, the untargeted one runs instead; with two, none. Square moves windows of an
      image: inputs other than square images are laid out as one, row by row, and padded where it needs more room. If
      Square, which uses no gradients, breaks inputs that the others could not, a CheaplipWarning says so.

    ``"fgsm"``, ``"pgd"`` and AutoAttack's APGD-CE follow the cross-entropy, whose gradient vanishes where one logit is
    far ahead, and points at no class where all are alike. Inputs that withstand them, and whose lead is below 3 or at
    least 12, are attacked again with the logits scaled to a lead between; the stronger of both counts.

    An attack proves that the inputs it breaks are not robust, and nothing about the others: the accuracy it leaves is
    an upper bound of the robust accuracy. The model runs in evaluation mode; its modes, its ``.grad`` and the global
    random state are left as they were. Attacks on inputs of lower precision compute in float32, and round what they
    return; the model itself always sees the precision of ``x``.

    Args:
        name: one of :data:`ATTACKS`.
        model: from inputs (B, \*input) to logits (B, classes).
        x, y: inputs (N, \*input) inside ``domain``, and their integer labels (N,), from 0 to classes - 1.
        epsilon: radius of the ball, or the size of a corruption; at 0, ``x`` comes back as it is.
        domain: where the inputs live; for AutoAttack, one range for all features, possibly infinite.
        norm: of the ball, 2 or ``math.inf``.
        seed: of all randomness; the same seed gives the same result if ``batch_size`` is the same, too.
        batch_size: number of inputs attacked at once. None: 1,000, or as many as keep less than 1 GiB for the backward
            pass. A batch that the memory of a GPU does not hold is attacked in halves.
        progress: called with (done, total) before each batch, about once a second within it, and at the end. What it
            raises stops the attack.

    Returns:
        The perturbed inputs, and which are still classified correctly.

    Raises:
        TypeError: inputs are not floating-point, or labels not integers.
        ValueError: an argument is out of range, the output isn't (B, classes), or two calls of the model on the same
            input differ.
        ImportError: the attack's library is missing; the message names the install.
        RuntimeError: the attack left the ball or the box, or returned NaN.

    Reference:
        Croce and Hein 2020 (AutoAttack); Madry et al. 2018 (PGD); Bungert et al. 2021, Section 4 (``"pgd-sign"``).

    Example:
        >>> x, y = torch.tensor([[0.9, 0.1], [0.6, 0.5]]), torch.tensor([0, 0])
        >>> attack("pgd-sign", torch.nn.Identity(), x, y, epsilon=0.2, domain=Box(0.0, 1.0)).correct
        tensor([ True, False])
    """
    _check_arguments(name, x, epsilon, domain, norm, batch_size)
    given, x = x.detach(), at_least_float32(x.detach())
    called = model if x.dtype == given.dtype else _of_precision(model, given.dtype)
    reporting = Reporting(called, progress or (lambda _done, _total: None))
    with evaluation_mode(model), fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
        if batch_size is None:
            batch_size = fitting_batch_size(called, x) if epsilon and name != "noise" else MOST
        torch.manual_seed(seed)  # foolbox and AutoAttack draw from the global generator
        clean = checked_prediction(called, x, y, batch_size) == y
        y = y.long()
        inputs, correct, withstood = x.clone(), clean.clone(), [int(clean.sum())]
        if name == "noise":
            inputs[clean] += epsilon * torch.randn_like(x)[clean]
        problem = Problem(partial(AttackableLogits.apply, reporting), epsilon, domain, seed, norm)
        stages = _STAGES[name](problem, x) if epsilon else []
        total = max(len(stages), 1) * len(x)
        for number, stage in enumerate(stages, start=1):
            for rows in torch.split(correct.nonzero().squeeze(1), batch_size) if withstood[-1] else ():
                reporting.report(number * len(x) - int(correct[rows[0] :].sum()), total)
                moved = in_parts(stage, x[rows], y[rows])
                free = name in CORRUPTIONS
                inputs[rows] = domain.project(moved) if free else _inside(name, moved, x[rows], epsilon, domain, norm)
                correct[rows] = predict(called, inputs[rows], batch_size) == y[rows]
            withstood.append(int(correct.sum()))
        if name == "autoattack" and stages and withstood[-2] - withstood[-1] > max(1, 0.002 * len(x)):
            warnings.warn(
                f"Square, which uses no gradients, broke {withstood[-2] - withstood[-1]} inputs that AutoAttack's "
                "gradient attacks could not: the model masks its gradients, so gradient attacks overrate it; "
                "remove what masks them, such as a final activation or rounding",
                CheaplipWarning,
                stacklevel=2,
            )
        reporting.report(total, total)
        return AttackResult(inputs.to(given.dtype), clean & (predict(called, inputs, batch_size) == y))


def applicable(domain: Box, norm: float = 2) -> tuple[str, ...]:
    """Name the attacks that can work in ``domain`` and ``norm``: AutoAttack needs one range for all features."""
    one_range = bool(domain.low.min() == domain.low.max()) and bool(domain.high.min() == domain.high.max())
    unable = (*(() if one_range else ("autoattack",)), *(() if norm == 2 else ("pgd-sign",)))
    return tuple(name for name in ATTACKS if name not in unable)


def _of_precision(model: Model, dtype: torch.dtype) -> Model:
    """Let a model that expects inputs of type ``dtype`` take others."""
    return lambda x: model(x.to(dtype))


def _inside(name: str, perturbed: Tensor, x: Tensor, epsilon: float, domain: Box, norm: float) -> Tensor:
    """Project ``perturbed`` back by what rounding has moved it out; more than that is an error of the attack."""
    # rounding moves a feature by up to eps·|x|, whatever the radius; AutoAttack computes in float32
    eps = max(torch.finfo(dtype).eps for dtype in (x.dtype, torch.float32))
    slack = 1e-4 * epsilon + eps * math.sqrt(x[0].numel()) * float(x.abs().amax())
    projected = domain.project(perturbed)
    excess, radius = (distance(delta, norm) for delta in (perturbed - projected, projected - x))
    sound = (excess <= slack) & (radius <= epsilon + slack)  # false for NaN
    if not bool(sound.all()):
        raise RuntimeError(
            f"attack {name!r} left the box or the ball, or returned NaN, for {int((~sound).sum())} of {len(x)} inputs "
            f"at epsilon={epsilon}: look for NaN in the model's gradients; if there is none, please report this"
        )
    moved = projected - x
    return domain.project(x + (moved.renorm(2, 0, epsilon) if norm == 2 else moved.clamp(-epsilon, epsilon)))


def _check_arguments(name: str, x: Tensor, epsilon: float, domain: Box, norm: float, batch_size: int | None) -> None:
    if name not in ATTACKS:
        raise ValueError(f"attack: expected one of {', '.join(ATTACKS)}, got {name!r}")
    if norm not in (2, math.inf):
        raise ValueError(f"norm: expected 2 or inf, got {norm!r}: attacks know these two")
    if isinstance(epsilon, str) or not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon!r}")
    check_inputs(x, 1 if batch_size is None else batch_size)
    if not x.is_floating_point():
        raise TypeError(f"x: expected floating-point inputs, got {x.dtype}: convert them with x.float()")
    domain.check_shape(tuple(x.shape[1:]))
    if not domain.contains(x):
        raise ValueError(
            f"x: expected inputs inside {domain!r}, got values from {float(x.min()):g} to {float(x.max()):g}: "
            "name the box the data lives in, and normalise inside the model"
        )
    if name not in applicable(domain, norm):
        if name == "pgd-sign":
            raise ValueError("pgd-sign: expected norm=2, the only norm it knows, got inf: use 'pgd'")
        raise ValueError("autoattack: expected one range for all features, got a box with several: use 'pgd'")
