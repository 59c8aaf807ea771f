"""A stage of an attack, and what it needs to know."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from cheaplip.domain import Box

__all__ = ["Problem", "Stage", "load"]

Stage = Callable[[Tensor, Tensor], Tensor]
r"""From inputs (B, \*input) and their labels (B,) to perturbed inputs. Stages run one after the other, each on what the
others have left."""


class Problem(NamedTuple):
    r"""What a stage attacks, and its limits.

    Attributes:
        logits: from inputs (B, \*input) to logits (B, classes), differentiable with respect to the inputs.
        epsilon: largest L2 distance of a perturbed input from its input.
        domain: where perturbed inputs lie.
        seed: of randomness other than torch's global generator.
    """

    logits: Callable[[Tensor], Tensor]
    epsilon: float
    domain: Box
    seed: int


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
