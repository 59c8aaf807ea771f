"""The options of a training run: one typed, validated dataclass, shared by the command line and Python."""

import difflib
import math
import re
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from cheaplip.clip import Aggregate
from cheaplip.data.scaling import Scaling
from cheaplip.discrepancy import Rule
from cheaplip.errors import ConfigError
from cheaplip.pairs import Climb, Start
from cheaplip.training.methods import METHODS
from cheaplip.training.models import Activation, FinalActivation
from cheaplip.training.tasks import TASKS

__all__ = ["TargetOn", "TrainConfig", "check_choice", "from_json"]

TargetOn = Literal["train", "validation"]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a :class:`ConfigError` with the nearest known name unless ``value`` is one of ``choices``."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}{hint}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything needed to run a training again.

    The defaults are the recommended settings; docs/results.md says how they were chosen, docs/ablation.md what each
    is worth.
    """

    data: Annotated[str, tyro.conf.Positional]
    """digits, mnist, fashion-mnist, file.npz, file.csv, a folder of images by class, or package.module:function"""
    label: str | None = None
    """the label's column in a CSV file"""
    task: str = "classification"
    """classification, or regression: squared error, figures in the label's units"""
    scaling: Scaling | None = None
    """of features: standard (mean 0, deviation 1 on the training part: distances and radii are in standard deviations)
    or none; unset: standard for a CSV file with values outside [0, 1]"""
    method: str = "clip"
    """plain, weight, clip, adversarial, certified or clip+certified"""
    model: str = "mlp:200,80"
    """mlp:WIDTHS, cnn, linear, or package.module:function"""
    activation: Activation | None = None
    """between the layers; unset: sigmoid for mlp, relu for cnn, certified, regression; your own model has its own"""
    final_activation: FinalActivation = "none"
    """on the outputs; sigmoid is the setting of the paper's authors"""
    target: float | Literal["unset"] | None = "unset"
    """training accuracy that λ is steered to, in (0, 1), unset: 0.98; for regression the training error (RMSE) in the
    label's units, such as the size of its noise; None keeps λ fixed"""
    target_on: TargetOn = "train"
    """the part of the data whose accuracy or error meets the target: train, step by step, or validation, by epoch"""
    epochs: int | None = None
    """passes over the training data; unset: 20 for certified, 100 for regression, else 30"""
    batch_size: int | None = None
    """unset: 256 for certified, else 128; less for small data"""
    lr: float | None = None
    """peak of the one-cycle learning rate; unset: 0.6 for mlp with sigmoid, else 0.05; certified: 0.003, of Adam"""
    momentum: float = 0.9
    """Nesterov momentum of SGD"""
    weight_decay: float = 2e-5
    """of SGD, for every method alike but certified, which has none; 0 switches it off"""
    lam: float | None = None
    """clip: λ at the start; unset: 0.5 for mlp and linear, 0.05 otherwise, 0.02 for regression"""
    margin: float | None = None
    """certified: lead of the class in units of the bound, √2 times a radius; unset: 0.45 times the data's epsilon"""
    mu: float = 1e-3
    """weight: μ at the start"""
    rule: Rule = "multiplicative"
    """how λ moves; additive is the paper's"""
    rate: float | None = None
    """largest change of log λ (or of λ, additive) in a step"""
    pairs: int = 64
    """size of the Lipschitz training set"""
    start: Start = "noise"
    """where pairs start"""
    step: Climb = "power"
    """how pairs climb; quotient is the paper's"""
    step_size: float | None = None
    """length of a climb, see PairSet"""
    renew: int = 1
    """pairs replaced at each training step; 0 switches the tournament off"""
    grace: int = 40
    """training steps before a newcomer can be replaced"""
    held_out: int = 0
    """clip: training inputs held out; they and noisy copies are the pairs, in turns of --pairs a step (the paper's)"""
    aggregate: Aggregate | None = None
    """from quotients to the penalty; unset: mean where steps are left out, else softmax; max is the paper's"""
    every: int | None = None
    """regularise each k-th step with k times the weight; unset: 1 below 2,000 steps, else up to 16, for 800 climbs"""
    form: str = "joint"
    """joint: pairs share the batch's pass; separate: a pass of their own, for any model"""
    adversarial_epsilon: float | None = None
    """radius of adversarial training; unset: the data's"""
    adversarial_steps: int = 7
    """gradient steps of adversarial training"""
    probe: int = 64
    """starts of each epoch's search for the largest quotient; 0 switches it off"""
    search: int = 512
    """starts of the search after training"""
    checkpoint_every: int | str = 1
    """epochs between checkpoints, such as 1, or minutes, such as 10m"""
    seed: int = 0
    """of weights, batches and pairs"""
    split_seed: int = 0
    """of the train/validation/test split"""
    device: str | None = None
    """unset: cuda where there is one, else cpu"""

    def __post_init__(self) -> None:
        check_choice("task", self.task, tuple(TASKS))
        task = TASKS[self.task]
        check_choice("method", self.method, METHODS)
        if self.method not in task.methods:
            raise ConfigError(
                f"method: {self.method} does not apply to {task.name}: expected one of {', '.join(task.methods)}"
            )
        if task.name == "regression" and self.final_activation != "none":
            raise ConfigError(
                f"final_activation: expected none with --task regression, got {self.final_activation}, which would "
                "bound the predictions"
            )
        if self.target == "unset" and task.target is not None:
            object.__setattr__(self, "target", task.target)
        for name, kinds in (
            ("final_activation", FinalActivation),
            ("rule", Rule),
            ("start", Start),
            ("step", Climb),
            ("activation", Activation),
            ("aggregate", Aggregate),
            ("scaling", Scaling),
        ):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), get_args(kinds))
        check_choice("form", self.form, ("joint", "separate"))
        check_choice("target_on", self.target_on, get_args(TargetOn))
        if isinstance(self.target, str) and self.target != "unset":
            raise ConfigError(f"target: expected a number or None, got {self.target!r}")
        if isinstance(self.target, int | float) and (wrong := task.check_target(self.target)):
            raise ConfigError(f"target: {wrong}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < 2**63:
                raise ConfigError(f"{name}: expected a whole number of {least} or more, got {value}")
        if not re.fullmatch(r"0*[1-9]\d*|(?=[\d.]*[1-9])(\d+\.?\d*|\.\d+)m", str(self.checkpoint_every)):
            raise ConfigError(
                f"checkpoint_every: expected epochs, such as 1, or minutes, such as 10m, got {self.checkpoint_every!r}"
            )
        for name in ("lr", "margin", "rate", "step_size", "adversarial_epsilon"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name}: expected a positive number, got {value}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay: expected a finite number of at least 0, got {self.weight_decay}")
        if self.held_out and (self.method != "clip" or self.held_out < self.pairs):
            raise ConfigError(
                f"held_out: expected 0, or with --method clip at least one input for each of the {self.pairs} pairs of "
                f"a step, got {self.held_out} with --method {self.method}"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum: expected a number in [0, 1), got {self.momentum}")
        for name in ("lam", "mu"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: expected a finite number of at least 0, got {value}")
            if value == 0 and self.target not in (None, "unset") and self.rule == "multiplicative":
                raise ConfigError(f"{name}: 0 can never move towards the target; start above 0, or say --rule additive")

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
        classes = self.method != "certified" and self.task == "classification"
        return "sigmoid" if self.model.startswith("mlp:") and classes else "relu"

    @property
    def resolved_epochs(self) -> int:
        """The number of passes in use."""
        return self.epochs or (20 if self.method == "certified" else 100 if self.task == "regression" else 30)

    @property
    def resolved_lr(self) -> float:
        """The peak learning rate in use; sigmoids, with slopes of at most 1/4, want more."""
        if self.lr is not None:
            return self.lr
        if self.method == "certified":
            return 3e-3
        return 0.6 if self.resolved_activation == "sigmoid" and self.model.startswith("mlp:") else 0.05

    @property
    def resolved_lam(self) -> float:
        """The penalty's first weight: λ, or μ for the method weight."""
        if self.method == "weight":
            return self.mu
        if self.lam is not None:
            return self.lam
        if self.task == "regression":  # from more, a network may become a constant before it has learnt anything
            return 0.02
        return 0.5 if self.model == "linear" or self.model.startswith("mlp:") else 0.05

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


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "pairs": 1,
    "renew": 0,
    "grace": 0,
    "every": 1,
    "adversarial_steps": 1,
    "held_out": 0,
    "probe": 0,
    "search": 1,
    "seed": 0,
    "split_seed": 0,
}


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
    try:
        return TrainConfig(**given)
    except TypeError as error:
        raise ConfigError(f"config.json: a value of the wrong type: {error}") from error
