"""``Method``, what a training method is, and ``Setting``, what it is made from.

To add a method to the package, write a file like ``plain.py`` and list its class in ``METHODS`` in ``__init__.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cheaplip.data import Data
from cheaplip.pairs import PairSet
from cheaplip.training.models import Activation
from cheaplip.training.options import SharedOptions
from cheaplip.training.tasks import Task

__all__ = ["GROUPS", "Losses", "Method", "Setting"]

GROUPS = (
    "baseline",
    "penalties on difference quotients",
    "penalties on gradients",
    "penalties on weights",
    "constraints on layers",
    "adversarial training",
    "training with a proved bound",
)
"""The kinds of training methods, in the order that ``cheaplip train --help`` lists them."""

Options = TypeVar("Options", bound=SharedOptions)


@dataclass(frozen=True, eq=False)
class Setting:
    r"""What a method is made from.

    Attributes:
        options: the options of the run; :meth:`options_of` returns them as the type of one method's options.
        network: the network to train, on the device it is trained on.
        data: the data, on the same device.
        held_out: training inputs that :meth:`Method.holds_out` asked for, (N, \*input); they are not in ``data``.
        task: classification or regression, which provides the loss.
        steps: training steps of the whole run.
        noise: the random generator for whatever the method draws, on the data's device.
        augment: from a batch of images to other views of them, for methods that augment; see ``Method.augments``. None:
            the images are used as they are.
    """

    options: SharedOptions
    network: nn.Module
    data: Data
    held_out: Tensor
    task: Task
    steps: int
    noise: torch.Generator
    augment: Callable[[Tensor], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network and the data."""
        return self.data.train.x.device

    def options_of(self, kind: type[Options]) -> Options:
        """Return the options of the run as the type ``kind``, which has the options of one method."""
        assert isinstance(self.options, kind)
        return self.options


class Losses(NamedTuple):
    """What a method computes for a batch.

    Attributes:
        total: the scalar to minimise.
        fit: the loss without penalties, a scalar.
        output: the network's outputs for the batch, or for its first inputs, (at most B, outputs), by which the batch
            is scored.
    """

    total: Tensor
    fit: Tensor
    output: Tensor


class Method(ABC):
    """A training method: what it minimises, what is steered, what a step costs, what is reported.

    A method of your own is a subclass like those in this folder, used with ``--method package.module:Class``. It must
    have ``name``, ``adds``, ``cost`` and :meth:`losses`. Everything else has a default that suits plain training.

    Args:
        setting: the options, network, data and task that it is made from.

    Attributes:
        name: its name in options, files and tables.
        adds: what it minimises, in one line: the loss and what the method adds to it, or what takes its place.
        cost: the cost of a step as a multiple of a plain step, in one line.
        source: the publication it comes from, in one line; "" for our own.
        group: the kind of method that it is, one of ``GROUPS``; "" for one of your own.
        tasks: the names of the tasks it applies to.
        options: the dataclass of its options: the shared ones and its own.
        steered: whether its penalty has a weight λ that is steered to a target.
        steerable: whether λ is steered to a target that is named, and otherwise stays as it is.
        responds_slowly: whether a change of λ shows in the accuracy only after many steps; λ then moves more slowly.
        responds_over_epochs: whether it shows only over epochs; λ then moves more slowly still.
        distributed: whether it works in several processes.
        augments: whether it augments inputs itself, with ``setting.augment``, because it perturbs each input first.
            Otherwise :meth:`losses` gets views, where there are any, in place of the inputs.
        same_noise: whether ``setting.noise`` must draw the same numbers in every process.
        epochs, batch_size, lr, activation: its defaults of these options. None: the default of the task or the model.
        rise: the fraction of the run in which the learning rate rises.
        longest_gradient: the Euclidean length to which the gradient of all weights is shortened: a single long step may
            saturate all sigmoids for good. None: it is not shortened.
        penalty: the module whose buffer ``lam`` is steered; its state is saved in checkpoints. None: there is none.
        first_lam: λ at the start. None: there is none.
        replays: how many steps in a row train on the same batch.
        bound: a module that computes a proved bound of Lip(f), part of the loss; its parameters, the multipliers, are
            trained with it. None: there is none.
    """

    name: ClassVar[str]
    adds: ClassVar[str]
    cost: ClassVar[str]
    source: ClassVar[str] = ""
    group: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    options: ClassVar[type[SharedOptions]] = SharedOptions
    steered: ClassVar[bool] = False
    steerable: ClassVar[bool] = False
    responds_slowly: ClassVar[bool] = False
    responds_over_epochs: ClassVar[bool] = False
    distributed: ClassVar[bool] = True
    augments: ClassVar[bool] = False
    same_noise: ClassVar[bool] = False
    epochs: ClassVar[int | None] = None
    batch_size: ClassVar[int] = 128
    lr: ClassVar[float | None] = None
    activation: ClassVar[Activation | None] = None
    rise: ClassVar[float] = 0.3
    longest_gradient: ClassVar[float | None] = 1.0

    penalty: nn.Module | None = None
    first_lam: float | None = None
    replays: int = 1
    bound: nn.Module | None = None

    def __init__(self, setting: Setting) -> None:
        self.loss = setting.task.loss

    @abstractmethod
    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        r"""Compute the loss of a batch, and what is added to it.

        Args:
            network: the network of the setting; in several processes wrapped, so that its gradients are averaged.
            x: inputs, (B, \*input).
            y: labels, scaled to what the network should output, (B,) or (B, k).
        """

    @classmethod
    def holds_out(cls, options: SharedOptions) -> int:  # noqa: ARG003
        """Return how many training inputs to hold out for the method's own use."""
        return 0

    @staticmethod
    def adapt_(network: nn.Module, shape: tuple[int, ...]) -> None:
        r"""Change the architecture of the untrained network, for inputs (B, \*shape); by default it stays as it is.

        It is also called when a trained network is loaded.
        """
        del network, shape

    @staticmethod
    def initialise_(network: nn.Module, seed: int) -> None:
        """Replace the first weights of the network; by default they stay as they are."""
        del network, seed

    def optimizer(self, parameters: Iterable[nn.Parameter], lr: float, options: SharedOptions) -> torch.optim.Optimizer:
        """Make the optimizer of the weights; by default SGD with Nesterov momentum."""
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=options.momentum,
            nesterov=options.momentum > 0,
            weight_decay=options.weight_decay,
        )

    def before_step(self, step: int, rows: Tensor) -> None:
        """Prepare a training step; by default there is nothing to prepare.

        Args:
            step: its number, from 0.
            rows: where the batch stands in the training data, (B,), int64.
        """
        del step, rows

    def after_step(self) -> None:  # noqa: B027 - most methods change nothing
        """Change the network after the optimizer has; by default it stays as it is."""

    @property
    def pairs(self) -> PairSet | None:
        """The pairs that move towards larger quotients while the network trains. None: there are none."""
        return None

    @property
    def largest(self) -> Tensor | None:
        """The largest quotient of the pairs at the last step, a scalar. None: there are no pairs."""
        return None

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs: tensors, plain values, and dictionaries of these."""
        return {"penalty": None if self.penalty is None else self.penalty.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned; the other keys of ``state`` are not the method's."""
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
