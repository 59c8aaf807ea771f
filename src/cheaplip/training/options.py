"""The options that every training method shares, and the checks of single options."""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from cheaplip.data.scaling import Scaling
from cheaplip.discrepancy import Rule
from cheaplip.errors import ConfigError
from cheaplip.training.models import Activation, FinalActivation
from cheaplip.training.tasks import TASKS

__all__ = [
    "INDIFFERENT",
    "SharedOptions",
    "TargetOn",
    "check_choice",
    "check_not_negative",
    "check_positive",
    "check_whole",
]

TargetOn = Literal["train", "validation"]

INDIFFERENT = ("device", "checkpoint_every")
"""Options that do not change what is trained."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """What is trained, on which data, how long, and towards which target: the same for every method."""

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
    """plain, weight, clip, adversarial, certified, clip+certified, or package.module:Class, a method of your own"""
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
    rule: Rule = "multiplicative"
    """how λ moves; additive is the paper's"""
    rate: float | None = None
    """largest change of log λ (or of λ, additive) in a step"""
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

    def check(self) -> None:
        """Raise a :class:`ConfigError` unless every shared option is in its range."""
        task = TASKS[self.task]
        if task.name == "regression" and self.final_activation != "none":
            raise ConfigError(
                f"final_activation: expected none with --task regression, got {self.final_activation}, which would "
                "bound the predictions"
            )
        for name, kinds in (
            ("final_activation", FinalActivation),
            ("rule", Rule),
            ("activation", Activation),
            ("scaling", Scaling),
            ("target_on", TargetOn),
        ):
            check_choice(name, getattr(self, name), get_args(kinds))
        if isinstance(self.target, str) and self.target != "unset":
            raise ConfigError(f"target: expected a number or None, got {self.target!r}")
        if isinstance(self.target, int | float) and (wrong := task.check_target(self.target)):
            raise ConfigError(f"target: {wrong}")
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("probe", 0),
            ("search", 1),
            ("seed", 0),
            ("split_seed", 0),
        ):
            check_whole(name, getattr(self, name), least)
        if not re.fullmatch(r"0*[1-9]\d*|(?=[\d.]*[1-9])(\d+\.?\d*|\.\d+)m", str(self.checkpoint_every)):
            raise ConfigError(
                f"checkpoint_every: expected epochs, such as 1, or minutes, such as 10m, got {self.checkpoint_every!r}"
            )
        check_positive("lr", self.lr)
        check_positive("rate", self.rate)
        check_not_negative("weight_decay", self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum: expected a number in [0, 1), got {self.momentum}")

    def check_first_weight(self, name: str, value: float | None) -> None:
        """Raise a :class:`ConfigError` unless a penalty can start from this weight (None: a default) and be steered."""
        check_not_negative(name, value)
        if value == 0 and self.target not in (None, "unset") and self.rule == "multiplicative":
            raise ConfigError(f"{name}: 0 can never move towards the target; start above 0, or say --rule additive")


def check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raise a :class:`ConfigError` with the nearest known name unless ``value`` is None or one of ``choices``."""
    if value is not None and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}{hint}")


def check_whole(name: str, value: int | None, least: int) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is None or a whole number of at least ``least``."""
    if value is not None and not least <= value < 2**63:
        raise ConfigError(f"{name}: expected a whole number of {least} or more, got {value}")


def check_positive(name: str, value: float | None) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is None or a finite number above 0."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name}: expected a positive number, got {value}")


def check_not_negative(name: str, value: float | None) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is None or a finite number of at least 0."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name}: expected a finite number of at least 0, got {value}")
