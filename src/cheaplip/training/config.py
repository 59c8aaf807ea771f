"""The options of a training run: one typed, validated dataclass, shared by the command line and Python."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from cheaplip.errors import ConfigError
from cheaplip.training.methods import METHODS, Method, method_named
from cheaplip.training.methods.adversarial import AdversarialOptions
from cheaplip.training.methods.certified import CertifiedOptions
from cheaplip.training.methods.clip import ClipOptions
from cheaplip.training.methods.weight import WeightOptions
from cheaplip.training.models import Activation
from cheaplip.training.options import SharedOptions, check_choice
from cheaplip.training.tasks import TASKS, Task

__all__ = ["TrainConfig", "from_json"]

_MOVED = {"cheaplip.experiments.paper.quick:": "cheaplip.paper.quick:"}  # in runs of version 0.1.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(AdversarialOptions, CertifiedOptions, ClipOptions, WeightOptions, SharedOptions):
    """Everything needed to run a training again: the shared options, and those of each method.

    The defaults are the recommended settings; docs/results.md says how they were chosen, docs/ablation.md what each
    is worth.
    """

    def __post_init__(self) -> None:
        check_choice("task", self.task, tuple(TASKS))
        task, method = self.task_class, method_named(self.method)
        if task.name not in method.tasks:
            choices = ", ".join(name for name, known in METHODS.items() if task.name in known.tasks)
            raise ConfigError(f"method: {self.method} does not apply to {task.name}: expected one of {choices}")
        if self.target == "unset" and task.target is not None:
            object.__setattr__(self, "target", task.target)
        parts: list[type[SharedOptions]] = [SharedOptions, *(known.options for known in METHODS.values())]
        for part in dict.fromkeys(parts):
            part.check(self)
        if self.held_out and (not method.holds_out(self) or self.held_out < self.pairs):
            raise ConfigError(
                f"held_out: expected 0, or with --method clip at least one input for each of the {self.pairs} pairs of "
                f"a step, got {self.held_out} with --method {self.method}"
            )

    @property
    def method_class(self) -> type[Method]:
        """The training method."""
        return method_named(self.method)

    @property
    def task_class(self) -> Task:
        """What is learnt."""
        return TASKS[self.task]

    @property
    def steered_to(self) -> float | None:
        """The target of λ; None: λ stays.

        Raises:
            ConfigError: it must be said, and was not.
        """
        if self.target == "unset":
            raise ConfigError(
                f"target: --task {self.task} --method {self.method} needs the training error that λ is steered to, in "
                "the label's units (RMSE): say --target with the size of the label's noise, or --target None to keep λ "
                "fixed"
            )
        return self.target

    @property
    def resolved_activation(self) -> Activation:
        """The activation in use, where the model has a choice of one."""
        if self.activation is not None:
            return self.activation
        of_mlp = self.method_class.activation or self.task_class.activation
        return of_mlp if self.model.startswith("mlp:") else "relu"

    @property
    def resolved_epochs(self) -> int:
        """The number of passes in use."""
        return self.epochs or self.method_class.epochs or self.task_class.epochs

    @property
    def resolved_lr(self) -> float:
        """The peak learning rate in use; sigmoids, with slopes of at most 1/4, want more."""
        if self.lr is not None:
            return self.lr
        if self.method_class.lr is not None:
            return self.method_class.lr
        return 0.6 if self.resolved_activation == "sigmoid" and self.model.startswith("mlp:") else 0.05

    @property
    def resolved_device(self) -> str:
        """The device in use."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def checkpoint_epochs(self) -> int | None:
        """Epochs between checkpoints; None where minutes count."""
        return None if self.checkpoint_seconds is not None else int(self.checkpoint_every)

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between checkpoints; None where epochs count."""
        minutes, unit, _ = str(self.checkpoint_every).partition("m")
        return 60 * float(minutes) if unit else None

    def check_device(self) -> None:
        """Raise a :class:`ConfigError` unless the device is there."""
        try:
            torch.empty(0, device=self.resolved_device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device: cannot use {self.resolved_device!r} ({error}): say cpu") from error


def from_json(content: dict[str, Any]) -> TrainConfig:
    """The configuration of a run's ``config.json``; keys it does not know (of newer versions) are refused.

    Raises:
        ConfigError: an unknown or missing key, or a value out of range.
    """
    known = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in content.items() if name != "versions"}
    unknown = sorted(set(given) - known)
    if unknown or "data" not in given:
        problem = f"unknown options {', '.join(unknown)}" if unknown else "no 'data'"
        raise ConfigError(f"config.json: {problem}; expected those of cheaplip train")
    for old, new in _MOVED.items():
        if isinstance(given["data"], str) and given["data"].startswith(old):
            given["data"] = given["data"].replace(old, new)
    try:
        return TrainConfig(**given)
    except TypeError as error:
        raise ConfigError(f"config.json: a value of the wrong type: {error}") from error
