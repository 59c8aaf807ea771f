"""``SharedOptions``, the options that every training method has, and functions that check a single option."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from cheaplip.data.augmentation import parse_augmentation
from cheaplip.data.scaling import Scaling
from cheaplip.discrepancy import Rule
from cheaplip.errors import ConfigError
from cheaplip.suggestion import did_you_mean
from cheaplip.training.models import Activation, FinalActivation
from cheaplip.training.reading_options import ReadingOptions
from cheaplip.training.tasks import TASKS

__all__ = [
    "INDIFFERENT",
    "SharedOptions",
    "TargetOn",
    "check_choice",
    "check_fraction",
    "check_not_negative",
    "check_positive",
    "check_whole",
]

TargetOn = Literal["train", "validation"]

INDIFFERENT = ("device", "checkpoint_every")
"""Options that do not change which network comes out."""


@dataclass(frozen=True, kw_only=True)
class SharedOptions(ReadingOptions):
    """The options that are the same for every method: the data, the model, the target, and how long to train."""

    data: Annotated[str, tyro.conf.Positional]
    """digits, mnist, fashion-mnist, kmnist, emnist-letters, cifar-10, pneumoniamnist or another 2-D MedMNIST set,
    file.npz, .csv, .tsv or .parquet, a folder of images, or package.module:function"""
    label: str | None = None
    """the column of a table, or the array of a .npz file, that holds the labels"""
    task: str = "classification"
    """classification, or regression (squared error; figures are in the label's units; of several labels, in standard
    deviations of each)"""
    augment: str | None = None
    """other views of the training images in each epoch: crop (of the image padded with zeros), flip (horizontally), or
    crop,flip; unset: the images as they are"""
    scaling: Scaling | None = None
    """standard (each feature in its standard deviations) or none; unset: standard for a table outside [0, 1]"""
    method: str = "clip"
    """the training method; TrainConfig lists them"""
    model: str = "mlp:200,80"
    """mlp:WIDTHS, cnn, 2c2f, 4c3f, resnet:DEPTH,WIDTH, linear, or package.module:function"""
    activation: Activation | None = None
    """activation between the layers of models by name; unset: sigmoid for mlp, maxmin for groupsort, relu for other
    models, certified, deep-spline, lipschitz-margin and regression"""
    final_activation: FinalActivation = "none"
    """activation of the outputs; sigmoid is what the paper's authors used"""
    give_up: float | str = "0.5%"
    """accuracy given up for stability: λ is moved until the accuracy on validation data is that much below a plain
    network's, which is trained first; in points, such as 0.5% or 0.005; for regression, a part of the error"""
    reference: str | None = None
    """the folder of a run to take the place of the plain network for --give-up; unset: one is trained in --out"""
    target: float | str | None = "unset"
    """the accuracy that λ is moved to reach, such as 97% or 0.97, instead of --give-up; for regression an error (RMSE);
    None keeps λ fixed"""
    target_on: TargetOn | None = None
    """the part of the data that meets the target: train (λ moves at each step) or validation (at each epoch); unset:
    train with --target, validation with --give-up"""
    epochs: int | None = None
    """passes over the training data; unset: 20 for certified, 100 for regression, else 30"""
    batch_size: int | None = None
    """inputs in a batch; unset: 256 for certified, else 128; fewer for small data"""
    lr: float | None = None
    """peak learning rate; unset: 0.003 for certified, which uses Adam, 0.05 for deep-spline, else 0.6 for mlp with
    sigmoid, else 0.05; less with batches of fewer than 8 inputs, in proportion"""
    momentum: float = 0.9
    """Nesterov momentum of SGD; certified has none"""
    weight_decay: float = 2e-5
    """weight decay of SGD; certified has none; 0 switches it off"""
    rule: Rule = "multiplicative"
    """how λ moves; additive is the paper's"""
    rate: float | None = None
    """largest change of log λ in a step, or of λ for additive; unset: it suits the length of the run"""
    probe: int = 64
    """number of starting points of the search for the largest quotient after each epoch; 0 switches it off"""
    search: int = 512
    """number of starting points of the search for the largest quotient after training"""
    checkpoint_every: int | str = 1
    """epochs between checkpoints, such as 1, or minutes, such as 10m"""
    seed: int = 0
    """seed of the weights, the batches and the pairs"""
    split_seed: int = 0
    """seed of the split into training, validation and test data"""
    device: str | None = None
    """device to train on; unset: cuda if there is one, else cpu"""

    @property
    def named_target(self) -> float | None:
        """The accuracy or error that λ is steered to, if it was given as such; None: it was not, or λ is fixed."""
        return None if self.target is None or isinstance(self.target, str) else float(self.target)

    def check(self) -> None:
        """Raise a :class:`ConfigError` if a shared option is out of its range."""
        task, _ = TASKS[self.task], self.reading
        if self.augment is not None:
            parse_augmentation(self.augment)
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
        assert isinstance(self.give_up, int | float)
        if wrong := task.give_up_problem(self.give_up):
            raise ConfigError(f"give_up: {wrong}")
        if isinstance(self.target, int | float) and (wrong := task.target_problem(self.target)):
            raise ConfigError(f"target: {wrong}")
        if self.reference is not None and self.target != "unset":
            raise ConfigError("reference: expected with --give-up alone: leave --target out, or --reference")
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
        """Raise a :class:`ConfigError` if a penalty cannot start from this weight, or could never leave it.

        Args:
            name: the option, for the message.
            value: the weight. None: the method has a default.
        """
        check_not_negative(name, value)
        if value == 0 and self.target is not None and self.rule == "multiplicative":
            raise ConfigError(f"{name}: 0 can never move towards the target; start above 0, or use --rule additive")


def check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is None or one of ``choices``; it suggests the most similar one."""
    if value is not None and value not in choices:
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}")


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


def check_fraction(name: str, value: float) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is a number from 0 to 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected a number from 0 to 1, got {value}")
