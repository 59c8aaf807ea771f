"""A stage of an attack, and what it needs to know."""

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cheaplip.domain import Box

__all__ = ["Problem", "Stage", "lead_of", "load", "rescaled"]

_LEAST_LEAD = 3.0

Stage = Callable[[Tensor, Tensor], Tensor]
r"""From inputs (B, \*input) and their labels (B,) to perturbed inputs. Stages run one after the other, each on what the
others have left."""


class Problem(NamedTuple):
    r"""What a stage attacks, and its limits.

    Attributes:
        logits: from inputs (B, \*input) to logits (B, classes), differentiable with respect to the inputs.
        epsilon: largest distance of a perturbed input from its input.
        domain: where perturbed inputs lie.
        seed: of randomness other than torch's global generator.
        norm: of distances, 2 or ``inf``.
    """

    logits: Callable[[Tensor], Tensor]
    epsilon: float
    domain: Box
    seed: int
    norm: float = 2


def rescaled(run: Callable[[Problem, Tensor, Tensor], Tensor], problem: Problem) -> Stage:
    r"""Make a stage of an attack on the logits, scaled for each input so that the lead of its class suits the attack.

    The class is that of the largest logit, whatever the logits' scale, but the cross-entropy depends on it. From a lead
    of about 17 on, its gradient is 0 in float32, and the attack stays where it is. With small leads, it is a mean over
    all classes, instead of pointing at the nearest one. Between, attacks find most. Each input has one factor, a power
    of four, so that the loss can be compared along the attack, and its lead is from 3 to below 12 at the start. Inputs
    whose lead is so anyway stay as they are.

    Args:
        run: the attack, from a problem, inputs and labels to perturbed inputs.
        problem: what it attacks.
    """

    def stage(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            lead = lead_of(problem.logits(x), y).double()
        usable = (lead > 0) & torch.isfinite(lead)
        power = torch.where(usable, torch.log2(torch.where(usable, lead, 1.0) / _LEAST_LEAD) / 2, 0.0).floor().int()
        found = x.clone()
        for exponent in sorted(set(power.tolist()) - {0}):
            rows = power == exponent
            scaled = problem._replace(logits=partial(_times, problem.logits, 4.0**-exponent))
            found[rows] = run(scaled, x[rows], y[rows])
        return found

    return stage


def _times(logits: Callable[[Tensor], Tensor], factor: float, x: Tensor) -> Tensor:
    return factor * logits(x)


def lead_of(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logit of each label minus the largest of the others, (B,)."""
    own = logits.gather(1, y.unsqueeze(1))
    return (own - logits.scatter(1, y.unsqueeze(1), -torch.inf)).amin(dim=1)


def load(package: str) -> Any:
    """Import an attack's library.

    Raises:
        ImportError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # foolbox 3.3 imports what scipy deprecates
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this attack needs {package}: pip install 'cheaplip[cli]'") from error
