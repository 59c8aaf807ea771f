"""What a training method is, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.pairs import PairSet
from cheaplip.training.models import Activation
from cheaplip.training.options import SharedOptions
from cheaplip.training.tasks import Task

__all__ = ["Losses", "Method", "Setting"]

Options = TypeVar("Options", bound=SharedOptions)


@dataclass(frozen=True, eq=False)
class Setting:
    """What a method is built from.

    Attributes:
        options: of the run; :meth:`options_of` gives them as the type that holds a method's own.
        network: what is trained, on the device it is trained on.
        data: what it is trained on, on the same device.
        held_out: training inputs that :meth:`Method.holds_out` kept back, (N, *input); none of them is in ``data``.
        task: what is learnt: the loss, and what a target means.
        steps: training steps of the whole run.
        noise: the source of randomness for whatever the method draws, on the data's device.
    """

    options: SharedOptions
    network: nn.Module
    data: Data
    held_out: Tensor
    task: Task
    steps: int
    noise: torch.Generator

    @property
    def device(self) -> torch.device:
        """Where network and data are."""
        return self.data.train.x.device

    def options_of(self, kind: type[Options]) -> Options:
        """The run's options, as the type that holds those of one method."""
        assert isinstance(self.options, kind)
        return self.options


class Losses(NamedTuple):
    """What a training step gives.

    Attributes:
        total: what is minimised, a scalar.
        fit: the loss without penalties, a scalar.
        output: of the network for the batch, (B, outputs).
    """

    total: Tensor
    fit: Tensor
    output: Tensor


class Method(ABC):
    """A way to train a network: what joins the loss, what is steered, what steps cost, what is reported.

    A method of your own is a class like those beside this file; ``--method package.module:Class`` trains with it. It
    needs ``name``, ``adds``, ``cost`` and :meth:`losses`; everything else has a default that suits plain training.

    Args:
        setting: what it is built from.

    Attributes:
        name: for options, files and tables.
        adds: what it adds to the loss, a line.
        cost: of a step, beside a step of plain training, a line.
        source: where it comes from, a line; "" for our own.
        tasks: those it applies to, by name.
        options: the options that it takes, a dataclass: the shared ones and its own.
        steered: whether its penalty has a weight λ that follows a target.
        answers_slowly: whether the network answers a change of λ only after many steps; λ then moves more slowly.
        distributed: whether it works in several processes.
        same_noise: whether ``setting.noise`` must draw the same numbers in every process.
        epochs, batch_size, lr, activation: its defaults. None: the task's, or the model's.
        rise: the part of the run in which the learning rate rises.
        longest_gradient: Euclidean length to which the weights' gradient is cut. None: it is not.
        penalty: the module whose buffer ``lam`` is steered; its state belongs to the checkpoint. None: nothing is.
        first_lam: λ at the start. None: there is none.
        bound: a proved bound of Lip(f) that the loss contains, with its own multipliers to train. None: there is none.
    """

    name: ClassVar[str]
    adds: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    options: ClassVar[type[SharedOptions]] = SharedOptions
    steered: ClassVar[bool] = False
    answers_slowly: ClassVar[bool] = False
    distributed: ClassVar[bool] = True
    same_noise: ClassVar[bool] = False
    epochs: ClassVar[int | None] = None
    batch_size: ClassVar[int] = 128
    lr: ClassVar[float | None] = None
    activation: ClassVar[Activation | None] = None
    rise: ClassVar[float] = 0.3
    longest_gradient: ClassVar[float | None] = None

    penalty: nn.Module | None = None
    first_lam: float | None = None
    bound: nn.Module | None = None

    def __init__(self, setting: Setting) -> None:
        self.loss = setting.task.loss

    @abstractmethod
    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        r"""The losses of a batch.

        Args:
            network: the one of the setting; in several processes, what averages its gradients over them.
            x: inputs, (B, \*input).
            y: labels as the network should answer them, (B,) or (B, k).
        """

    @classmethod
    def holds_out(cls, options: SharedOptions) -> int:  # noqa: ARG003
        """How many training inputs are kept back for the method's own use."""
        return 0

    @staticmethod
    def initialise_(network: nn.Module, seed: int) -> None:
        """Draw the weights that the method wants to start from; by default they stay as they are."""
        del network, seed

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float, options: SharedOptions) -> torch.optim.Optimizer:
        """What moves the weights: SGD with Nesterov momentum, unless a method wants another."""
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=options.momentum,
            nesterov=options.momentum > 0,
            weight_decay=options.weight_decay,
        )

    def before_step(self, step: int) -> None:
        """Prepare the training step of that number, from 0; by default there is nothing to prepare."""
        del step

    @property
    def pairs(self) -> PairSet | None:
        """The pairs that climb while the network trains. None: there are none."""
        return None

    @property
    def largest(self) -> Tensor | None:
        """The largest quotient among the pairs in the last step, a scalar. None: there are no pairs."""
        return None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: tensors, plain values, and dictionaries of them."""
        return {"penalty": None if self.penalty is None else self.penalty.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned; other keys in it are not the method's."""
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
