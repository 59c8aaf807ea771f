"""``TrainConfig``: all options of a training run in one validated dataclass, for the command line and for Python."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from cheaplip.data import Data
from cheaplip.errors import ConfigError
from cheaplip.reference import read_fraction
from cheaplip.training.methods import GROUPS, METHODS, Method, method_named
from cheaplip.training.methods.adversarial import AdversarialOptions
from cheaplip.training.methods.adversaries.fgsm import FgsmOptions
from cheaplip.training.methods.adversaries.free import FreeOptions
from cheaplip.training.methods.adversaries.one_step import OneStepOptions
from cheaplip.training.methods.adversaries.trades import TradesOptions
from cheaplip.training.methods.certified import CertifiedOptions
from cheaplip.training.methods.clip import Clip, ClipOptions
from cheaplip.training.methods.constraints.deep_spline import DeepSplineOptions
from cheaplip.training.methods.constraints.groupsort import GroupSortOptions
from cheaplip.training.methods.constraints.lipschitz_margin import LipschitzMarginOptions
from cheaplip.training.methods.penalties.gradient_penalty import GradientPenaltyOptions
from cheaplip.training.methods.penalties.jacobian import JacobianOptions
from cheaplip.training.methods.penalties.laplacian import LaplacianOptions
from cheaplip.training.methods.penalties.operator_norm import PowerOptions
from cheaplip.training.methods.scale_free import ScaleFreeOptions
from cheaplip.training.methods.weight import WeightOptions
from cheaplip.training.methods.weight_layers import LayerNormOptions
from cheaplip.training.models import Activation, build, is_perceptron
from cheaplip.training.options import SharedOptions, TargetOn, check_choice
from cheaplip.training.tasks import TASKS, Task, task_of

__all__ = ["TrainConfig", "from_json", "renamed"]

_MOVED = {"cheaplip.experiments.paper.quick:": "cheaplip.paper.quick:"}  # modules that runs of version 0.1.0 name


def _method_help() -> str:
    lines = ["the training method; what it minimises:"]
    for group in GROUPS:
        lines += [f"{group}:", *(f"  {name}: {kind.adds};" for name, kind in METHODS.items() if kind.group == group)]
    return "\n".join([*lines, "or package.module:Class, a method of your own"])


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    JacobianOptions,
    GradientPenaltyOptions,
    PowerOptions,
    LayerNormOptions,
    LaplacianOptions,
    DeepSplineOptions,
    TradesOptions,
    FgsmOptions,
    FreeOptions,
    OneStepOptions,
    AdversarialOptions,
    GroupSortOptions,
    LipschitzMarginOptions,
    ScaleFreeOptions,
    CertifiedOptions,
    ClipOptions,
    WeightOptions,
    SharedOptions,
):
    """Everything needed to repeat a training run: the shared options, and those of each method.

    The defaults are the recommended settings: docs/results.md says how they were chosen, docs/ablation.md what each of
    them contributes. The options of a method that is not used are checked, but have
    no effect on the training.
    """

    method: Annotated[str, tyro.conf.arg(help=_method_help())] = "clip"

    def __post_init__(self) -> None:
        check_choice("task", self.task, tuple(TASKS))
        self._drop_target()
        task, method = self.task_class, method_named(self.method)
        if task.name not in method.tasks:
            choices = ", ".join(name for name, known in METHODS.items() if task.name in known.tasks)
            raise ConfigError(f"method: {self.method} does not apply to {task.name}: expected one of {choices}")
        object.__setattr__(self, "give_up", _fraction("give_up", self.give_up))
        if isinstance(self.target, str) and self.target != "unset":
            if task.name == "regression" and self.target.strip().endswith("%"):
                raise ConfigError(
                    f"target: expected an error in the label's units, got {self.target!r}: name one, or use --give-up "
                    "for a part of a plain network's error"
                )
            object.__setattr__(self, "target", _fraction("target", self.target))
        parts: list[type[SharedOptions]] = [SharedOptions, *(known.options for known in METHODS.values())]
        for part in dict.fromkeys(parts):
            part.check(self)
        if self.held_out and (not method.holds_out(self) or self.held_out < self.pairs):
            names = " or ".join(name for name, known in METHODS.items() if known.holds_out(self))
            raise ConfigError(
                f"held_out: expected 0, or with --method {names} at least one input for each of the {self.pairs} pairs "
                f"of a step, got {self.held_out} with --method {self.method}"
            )

    def _drop_target(self) -> None:
        """Leave the accuracy alone where λ is steered to a Lipschitz constant."""
        if self.target_lipschitz is None:
            return
        if self.target not in ("unset", None):
            raise ConfigError(
                f"target_lipschitz: λ follows one target, got --target {self.target} as well: leave one of them out"
            )
        if not issubclass(method_named(self.method), Clip):
            raise ConfigError(f"target_lipschitz: expected --method clip, which steers λ to it, got {self.method}")
        object.__setattr__(self, "target", None)

    @property
    def method_class(self) -> type[Method]:
        """The class of the training method."""
        return method_named(self.method)

    @property
    def task_class(self) -> Task:
        """The task: classification or regression."""
        return TASKS[self.task]

    @property
    def gives_up(self) -> bool:
        """Whether λ is steered to a target that is found from a reference and ``give_up``."""
        return self.method_class.steered and self.target == "unset"

    @property
    def steered(self) -> bool:
        """Whether λ is steered to an accuracy or an error."""
        method = self.method_class
        return self.gives_up or ((method.steered or method.steerable) and self.named_target is not None)

    @property
    def resolved_target_on(self) -> TargetOn:
        """The part of the data that meets the target: the option, or else the default."""
        return self.target_on or ("validation" if self.gives_up else "train")

    @property
    def resolved_activation(self) -> Activation:
        """The activation, for models that have a choice: the option, or else the default of the method or task."""
        if self.activation is not None:
            return self.activation
        return self.method_class.activation or (self.task_class.activation if is_perceptron(self.model) else "relu")

    @property
    def resolved_epochs(self) -> int:
        """The number of epochs: the option, or else the default of the method or task."""
        return self.epochs or self.method_class.epochs or self.task_class.epochs

    @property
    def resolved_lr(self) -> float:
        """The peak learning rate: the option, or else the default of the method or of the activation.

        Sigmoids have slopes of at most 1/4 and need a larger one. With fewer than 8 inputs in a batch, the default of
        the activation is reduced in proportion.
        """
        if self.lr is not None:
            return self.lr
        if self.method_class.lr is not None:
            return self.method_class.lr
        return 0.6 if self.resolved_activation == "sigmoid" and is_perceptron(self.model) else 0.05

    @property
    def resolved_device(self) -> str:
        """The device: the option, or else cuda if there is one."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def checkpoint_epochs(self) -> int | None:
        """Epochs between checkpoints; None if the option gives minutes."""
        return None if self.checkpoint_seconds is not None else int(self.checkpoint_every)

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between checkpoints; None if the option gives epochs."""
        minutes, unit, _ = str(self.checkpoint_every).partition("m")
        return 60 * float(minutes) if unit else None

    def check_device(self) -> None:
        """Raise a :class:`ConfigError` if the device cannot be used."""
        try:
            torch.empty(0, device=self.resolved_device)
            torch.Generator(self.resolved_device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ConfigError(f"device: cannot use {self.resolved_device!r} ({error}): use cpu") from error

    def build_model(self, data: Data) -> nn.Module:
        """Build the untrained model of this run, with weights drawn from its seed.

        Args:
            data: the data it will be trained on.

        Raises:
            ModelError: the model is unknown, or does not fit the data.
        """
        network = build(
            self.model,
            data.shape,
            data.outputs,
            activation=self.resolved_activation,
            final_activation=self.final_activation,
            seed=self.seed,
        )
        self.method_class.adapt_(network, data.shape)
        return task_of(data).wrap(network, data.train.y)


def _fraction(name: str, value: float | str) -> float:
    try:
        return read_fraction(name, value)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def from_json(content: dict[str, Any]) -> TrainConfig:
    """Read the configuration from the content of a run's ``config.json``.

    Raises:
        ConfigError: an unknown option (of a newer version), no data, or a value out of range.
    """
    known = {field.name for field in fields(TrainConfig)}
    given = renamed({name: value for name, value in content.items() if name != "versions"})
    unknown = sorted(set(given) - known)
    if unknown or "data" not in given:
        problem = f"unknown options {', '.join(unknown)}" if unknown else "no 'data'"
        raise ConfigError(f"config.json: {problem}; expected those of cheaplip train")
    try:
        return TrainConfig(**given)
    except (AttributeError, OverflowError, TypeError) as error:
        raise ConfigError(f"config.json: a value of the wrong type or size: {error}") from error


def renamed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a ``config.json`` or of a card, with today's names for data that version 0.1.0 named."""
    data = options.get("data")
    for old, new in _MOVED.items():
        if isinstance(data, str) and data.startswith(old):
            return {**options, "data": data.replace(old, new)}
    return options
