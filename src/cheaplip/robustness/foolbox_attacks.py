"""foolbox's L2 attacks: the fast gradient and projected gradient descent, kept inside any box."""

import math
from functools import partial
from typing import Any

from torch import Tensor, nn

from cheaplip.robustness.stage import Problem, Stage, load

__all__ = ["fgsm", "pgd"]

_STEPS = 100


def fgsm(problem: Problem, x: Tensor) -> list[Stage]:  # noqa: ARG001
    """Make the single stage of ``"fgsm"``."""
    return [partial(_perturbed, problem, "L2FastGradientAttack", {})]


def pgd(problem: Problem, x: Tensor) -> list[Stage]:  # noqa: ARG001
    """Make the single stage of ``"pgd"``."""
    return [partial(_perturbed, problem, "L2PGD", {"steps": _STEPS})]


def _perturbed(problem: Problem, kind: str, options: dict[str, int], x: Tensor, y: Tensor) -> Tensor:
    foolbox, eagerpy = load("foolbox"), load("eagerpy")
    base: Any = getattr(foolbox.attacks, kind)
    domain = problem.domain

    class WithinBox(base):  # type: ignore[misc]
        """foolbox clips to one range for all features; this projects on any box, in the same two places."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return eagerpy.astensor(domain.project(super().get_random_start(x0, epsilon).raw))

        def project(self, x: Any, x0: Any, epsilon: float) -> Any:
            return eagerpy.astensor(domain.project(super().project(x, x0, epsilon).raw))

    module = nn.Module().eval()
    module.forward = problem.logits
    wrapped = foolbox.PyTorchModel(module, bounds=(-math.inf, math.inf), device=x.device)
    perturbed: Tensor = WithinBox(**options)(wrapped, x, y, epsilons=problem.epsilon)[1]
    return perturbed
