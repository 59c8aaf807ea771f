"""foolbox's attacks in L2 and L∞: gradient steps of a given length, and the smallest perturbation that it finds."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.quotient import column, distance
from cheaplip.robustness.stage import Problem, Stage, load, rescaled

__all__ = ["fgsm", "fmn", "pgd"]

_STEPS = 100
_SEARCH_STEPS = 100  # of each search for the smallest perturbation
_STEP_SHARES = (1.0, 0.25, 0.06)  # of the largest radius: the length of a search's first step
_BEYOND = 1.001  # the estimated distance of another class, of which a linear one would be exactly on the border
_LEAST = 1e-30  # stands in for a distance of 0 in a divisor


def fgsm(problem: Problem, x: Tensor) -> list[Stage]:  # noqa: ARG001
    """Make the stages of ``"fgsm"``: on the logits, and at another scale of them."""
    return _twice({2: "L2FastGradientAttack", math.inf: "LinfFastGradientAttack"}, {}, problem)


def pgd(problem: Problem, x: Tensor) -> list[Stage]:  # noqa: ARG001
    """Make the stages of ``"pgd"``: on the logits, and at another scale of them."""
    return _twice({2: "L2PGD", math.inf: "LinfPGD"}, {"steps": _STEPS}, problem)


def fmn(problem: Problem, x: Tensor) -> list[Stage]:  # noqa: ARG001
    """Make the single stage of ``"fmn"``, whose loss, a difference of logits, is the same at every scale."""
    return [partial(_smallest, problem)]


def _smallest(problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    """Search with first steps of several lengths, and keep the smallest perturbation that changes the class."""
    names = {2: "L2FMNAttack", math.inf: "LInfFMNAttack"}
    longest = problem.epsilon * (1.0 if problem.norm == 2 else math.sqrt(x[0].numel()))  # steps have a length in L2
    best, length = x, x.new_full((len(x),), math.inf)
    for share in _STEP_SHARES:
        options = {"steps": _SEARCH_STEPS, "max_stepsize": share * longest}
        found = _within(problem, x, _perturbed(names, options, problem, x, y))
        with torch.no_grad():
            broken = problem.logits(found).argmax(dim=1) != y
        moved = torch.where(broken, distance(found - x, problem.norm), math.inf)
        best = torch.where(column(moved < length, x), found, best)
        length = torch.minimum(length, moved)
    return best


def _twice(names: dict[float, str], options: dict[str, int], problem: Problem) -> list[Stage]:
    run = partial(_perturbed, names, options)
    return [partial(run, problem), rescaled(run, problem)]


def _within(problem: Problem, x: Tensor, perturbed: Tensor) -> Tensor:
    """Shorten what is longer than ε."""
    length = distance(perturbed - x, problem.norm).clamp_min(_LEAST)
    return x + column((problem.epsilon / length).clamp(max=1), x) * (perturbed - x)


def _shortened(moved: Tensor, epsilon: Tensor, norm: float) -> Tensor:
    """Shorten perturbations to a little beyond a radius each, (B,).

    foolbox 3.3 does not shorten them in L2, and stops at the border of a linear class.
    """
    limit = column(_BEYOND * epsilon.nan_to_num(math.inf), moved)
    if norm != 2:
        return torch.maximum(torch.minimum(moved, limit), -limit)
    return moved * (limit / column(distance(moved), moved).clamp_min(_LEAST)).clamp(max=1)


def _perturbed(names: dict[float, str], options: dict[str, Any], problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    foolbox, eagerpy = load("foolbox"), load("eagerpy")
    base: Any = getattr(foolbox.attacks, names[problem.norm])
    domain = problem.domain

    class WithinBox(base):  # type: ignore[misc]
        """foolbox clips to one range for all features; this projects on any box, in the same two places."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return eagerpy.astensor(domain.project(super().get_random_start(x0, epsilon).raw))

        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            if isinstance(epsilon, eagerpy.Tensor):
                return eagerpy.astensor(domain.project(x0.raw + _shortened(x.raw - x0.raw, epsilon.raw, problem.norm)))
            return eagerpy.astensor(domain.project(super().project(x, x0, epsilon).raw))

    module = nn.Module().eval()
    module.forward = problem.logits
    wrapped = foolbox.PyTorchModel(module, bounds=(-math.inf, math.inf), device=x.device)
    epsilons = None if "FMN" in names[problem.norm] else problem.epsilon
    perturbed: Tensor = WithinBox(**options)(wrapped, x, y, epsilons=epsilons)[1]
    return perturbed
