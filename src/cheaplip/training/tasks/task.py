"""What a task provides: loss, figures, the meaning of a target, attacks, certificates, and the words for them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cheaplip.discrepancy import MetricMode
from cheaplip.domain import Box
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.model import call_on_copy
from cheaplip.training.models import Activation

__all__ = ["BATCH_SIZE", "CHECKED_INPUTS", "Certificate", "Task", "predict"]

BATCH_SIZE = 1000
"""Inputs that a trained model takes at a time."""

CHECKED_INPUTS = 256
"""Inputs whose outputs are checked before a model is measured."""


class Certificate(NamedTuple):
    """What is proved of a model on some inputs.

    Attributes:
        figures: the certified main figure for each radius; keys are radii as Python prints them.
        table: the content of ``certified.csv``, see :mod:`cheaplip.training.certified_csv`.
    """

    figures: dict[str, float]
    table: str


class Task(ABC):
    """Classification or regression. A task has no state: all numbers come from the model and the data.

    The model is what is saved and measured. The network inside it is what is trained; for classification they are the
    same, for regression the model scales the network's outputs to the units of the labels.

    Attributes:
        name: its name, in options and files.
        mode: what is good for the controller of λ: ``"max"``: a large score, ``"min"``: a small one.
        figure: the name of the main figure, in ``metrics.json``.
        output_name: the name of the output in an exported file.
        output_meaning: what an output is.
        certificate_meaning: what a certified figure says, a sentence.
        reluctance: how slowly λ falls before the target is first met, see :class:`cheaplip.DiscrepancyPrinciple`.
        epochs: default number of epochs.
        activation: default activation of a perceptron.
        first_lam: CLIP's first λ. None: it depends on the model.
    """

    name: ClassVar[str]
    mode: ClassVar[MetricMode]
    figure: ClassVar[str]
    output_name: ClassVar[str]
    output_meaning: ClassVar[str]
    certificate_meaning: ClassVar[str]
    reluctance: ClassVar[float]
    epochs: ClassVar[int]
    activation: ClassVar[Activation]
    first_lam: ClassVar[float | None]

    @abstractmethod
    def target_problem(self, target: float) -> str:
        """Return what is wrong with a target; "" if nothing is."""

    @abstractmethod
    def give_up_problem(self, give_up: float) -> str:
        """Return what is wrong with what is to be given up; "" if nothing is."""

    @abstractmethod
    def target_score(self, target: float, y: Tensor) -> float:
        """Return the value of :meth:`score` at which a target is met.

        Args:
            target: an accuracy, or an error in the units of the labels.
            y: the training labels.

        Raises:
            ValueError: a constant prediction meets the target.
        """

    @abstractmethod
    def width(self, target_score: float) -> float:
        """Return the distance from the target score at which λ moves at full speed."""

    @abstractmethod
    def wrap(self, network: nn.Module, y: Tensor) -> nn.Module:
        """Make the model from a network; ``y`` are the training labels."""

    @abstractmethod
    def unwrap(self, model: nn.Module) -> tuple[nn.Module, float]:
        """Return the network of a model, and the factor from the network's outputs to the model's."""

    @abstractmethod
    def network_labels(self, y: Tensor, model: nn.Module) -> Tensor:
        """Scale labels so that they are what the network should output."""

    @abstractmethod
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar, from outputs of the network and its labels."""

    @abstractmethod
    def score(self, output: Tensor, y: Tensor) -> Tensor:
        """Return what the controller compares with the target score: a scalar without a gradient, for a batch."""

    @abstractmethod
    def score_figures(self, score: float, scale: float) -> dict[str, float]:
        """Turn a mean score into figures, by name.

        Args:
            score: mean of :meth:`score` over batches.
            scale: the factor from the network's outputs to the model's.
        """

    @abstractmethod
    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        """Measure the model on some inputs; returns figures by name, the main one first."""

    def metrics(self, model: nn.Module, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Measure the model on several parts of the data, as ``metrics.json`` holds it: by figure, then by part."""
        found = {part: self.figures(model, *inputs) for part, inputs in parts.items()}
        names = dict.fromkeys(name for figures in found.values() for name in figures)
        return {name: {part: figures[name] for part, figures in found.items()} for name in names}

    @abstractmethod
    def check_model(self, model: nn.Module, x: Tensor, outputs: int) -> None:
        """Check a trained model on the first inputs of ``x``.

        Warns of what makes a model look more robust than it is; raises a ``ValueError`` if it cannot be measured.
        """

    @abstractmethod
    def constant_answer(self, model: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> str:
        """Return the answer that the model gives for all inputs of these parts; "" if it gives different ones.

        Args:
            model: the trained model.
            parts: inputs and labels.
            names: of the classes; empty where they have none.
        """

    @abstractmethod
    def attacks(self, domain: Box, norm: float = 2) -> tuple[str, ...]:
        """Return the names of the attacks that work in a box, noise among them."""

    @abstractmethod
    def figure_under_attack(
        self,
        name: str,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        epsilon: float,
        domain: Box,
        norm: float = 2,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """Measure the main figure on perturbed inputs; arguments as in :func:`cheaplip.robustness.attack`."""

    def figures_under_attack(
        self,
        name: str,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        epsilons: Sequence[float],
        domain: Box,
        norm: float = 2,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[float, float]]:
        """Yield each radius with the main figure there; arguments as in :meth:`figure_under_attack`."""
        for epsilon in epsilons:
            yield (
                epsilon,
                self.figure_under_attack(
                    name, model, x, y, epsilon=epsilon, domain=domain, norm=norm, seed=seed, progress=progress
                ),
            )

    @abstractmethod
    def certify(
        self, model: nn.Module, x: Tensor, y: Tensor, b: Bracket, epsilons: Sequence[float], *, local: bool = False
    ) -> Certificate:
        """Prove the main figure that remains whatever perturbation of at most ε the inputs get, for each ε.

        With ``local``, the constant is bounded in the ball around each input as well.

        Raises:
            ValueError: nothing can be certified, or not locally.
        """

    def check_local(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        """Raise an error if the model cannot be certified with bounds around each input.

        Raises:
            UnsupportedLayerError: it is too large, or has a layer without such bounds.
            ValueError: the task has no such bounds.
        """
        del model, shape
        raise ValueError("local: expected a classifier, as bounds around each input are those of class pairs")

    @abstractmethod
    def check_consistency(self, metrics: Mapping[str, Any], table: str) -> None:
        """Raise a :class:`ContradictionError` if the figures under attack contradict ``certified.csv``."""

    @abstractmethod
    def proves(self, proved: float, claimed: float) -> bool:
        """Return whether a certified figure implies another one."""

    @abstractmethod
    def format_figure(self, figure: float) -> str:
        """Write the main figure, with its unit or its name."""

    @abstractmethod
    def report_content(self, model: nn.Module, x: Tensor, y: Tensor, outputs: int) -> dict[str, Any]:
        """Return what a report shows of the predictions for test inputs."""


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's outputs for many inputs, computed in batches, without gradients."""
    with torch.no_grad():
        return torch.cat([call_on_copy(model, part) for part in torch.split(x, BATCH_SIZE)])
