"""What every task answers: its loss and figures, what a target means, which attacks apply, what is proved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.discrepancy import MetricMode
from cheaplip.domain import Box
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.training.models import Activation

__all__ = ["Certificate", "Task"]


class Certificate(NamedTuple):
    """What is proved of a model on some inputs.

    Attributes:
        figures: at each radius, by the number as Python prints it.
        table: all inputs, as the content of ``certified.csv``.
    """

    figures: dict[str, float]
    table: str


class Task(ABC):
    """Classification or regression. No state: a run's numbers are the model's and the data's.

    Attributes:
        name: for options and files.
        mode: "max" where the controller's metric should be large.
        figure: name of the main one, in ``metrics.json``.
        output: its name in an exported file.
        meaning: of an output.
        claim: what a certified figure says, a sentence.
        reluctance: of λ to fall while the target has never been met, see :class:`DiscrepancyPrinciple`.
        target: the default of ``--target``; None: there is none, it must be said.
        epochs: the default of ``--epochs``.
        activation: the default of ``--activation`` between the layers of a perceptron.
        first_lam: CLIP's λ at the start. None: the model decides.
    """

    name: ClassVar[str]
    mode: ClassVar[MetricMode]
    figure: ClassVar[str]
    output: ClassVar[str]
    meaning: ClassVar[str]
    claim: ClassVar[str]
    reluctance: ClassVar[float]
    target: ClassVar[float | None]
    epochs: ClassVar[int]
    activation: ClassVar[Activation]
    first_lam: ClassVar[float | None]

    @abstractmethod
    def check_target(self, target: float) -> str:
        """What is wrong with a target, "" if nothing."""

    @abstractmethod
    def goal(self, target: float, y: Tensor) -> float:
        """The level of :meth:`score` that a target stands for, given the training labels.

        Raises:
            ValueError: a target that a constant reaches.
        """

    @abstractmethod
    def width(self, goal: float) -> float:
        """Error of the score at which λ moves at full speed."""

    @abstractmethod
    def served(self, network: nn.Module, y: Tensor) -> nn.Module:
        """The model that is kept, from the network that is trained; ``y`` are the training labels."""

    @abstractmethod
    def network(self, model: nn.Module) -> tuple[nn.Module, float]:
        """The network of a served model, and how much larger the model's outputs are."""

    @abstractmethod
    def trained_on(self, y: Tensor, model: nn.Module) -> Tensor:
        """Labels as the network should answer them."""

    @abstractmethod
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a batch."""

    @abstractmethod
    def score(self, output: Tensor, y: Tensor) -> Tensor:
        """What the controller sees of a batch of the network's outputs, a scalar without a gradient."""

    @abstractmethod
    def seen(self, score: float, scale: float) -> dict[str, float]:
        """A mean score as figures, given how much larger the model's outputs are than the network's."""

    @abstractmethod
    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """How good the model is on some inputs, by name; the first name is the main figure."""

    def metrics(self, model: nn.Module, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """The figures of several parts of the data, as in ``metrics.json``: by figure, then by part."""
        found = {part: self.figures(model, *inputs) for part, inputs in parts.items()}
        names = dict.fromkeys(name for figures in found.values() for name in figures)
        return {name: {part: figures[name] for part, figures in found.items()} for name in names}

    @abstractmethod
    def check_model(self, model: nn.Module, x: Tensor, outputs: int) -> None:
        """Warn of what makes a model look robust; raise a ``ValueError`` where it cannot be measured at all."""

    @abstractmethod
    def attacks(self, domain: Box) -> tuple[str, ...]:
        """Names of the attacks that can work in a box, noise among them."""

    @abstractmethod
    def attacked(
        self,
        name: str,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        epsilon: float,
        domain: Box,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """The main figure on perturbed inputs; arguments as in :func:`cheaplip.robustness.attack`."""

    @abstractmethod
    def certificate(self, model: nn.Module, x: Tensor, y: Tensor, b: Bracket, epsilons: Sequence[float]) -> Certificate:
        """What no perturbation of at most ε can exceed, proved.

        Raises:
            ValueError: nothing can be certified.
        """

    @abstractmethod
    def check_order(self, metrics: Mapping[str, Any], table: str) -> None:
        """Raise a :class:`ContradictionError` where figures and a certificate's table cannot both be true."""

    @abstractmethod
    def proves(self, proved: float, claimed: float) -> bool:
        """Whether a certified figure implies another."""

    @abstractmethod
    def write(self, figure: float) -> str:
        """The main figure in words."""

    @abstractmethod
    def exhibits(self, model: nn.Module, x: Tensor, y: Tensor, outputs: int) -> dict[str, Any]:
        """What a report shows of the answers to test inputs."""


def answers(model: nn.Module, x: Tensor, *, batch_size: int = 1000) -> Tensor:
    """The model's outputs, in batches, without gradients."""
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.split(x, batch_size)])
