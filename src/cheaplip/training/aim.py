"""``Aim``: what the λ of a run is steered to. A target that was named, or what a plain network leaves to give up."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor

from cheaplip.data import Data
from cheaplip.errors import CheaplipWarning, ConfigError
from cheaplip.modes import evaluation_mode
from cheaplip.reference import (
    accuracy_of,
    constant_accuracy,
    constant_error,
    has_rare_classes,
    root_mean_square,
    target_accuracy,
    target_error,
)
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.words import misses
from cheaplip.training.config import TrainConfig, from_json
from cheaplip.training.methods.plain import Plain
from cheaplip.training.options import INDIFFERENT, SharedOptions, TargetOn
from cheaplip.training.tasks import Task, task_of
from cheaplip.training.tasks.task import predict

__all__ = ["Aim", "aim_below", "check_reference", "missed", "named_aim", "plain_config", "serves_as_plain"]

_SEARCH = 64  # starting points of the search for the plain network's largest quotient

_NOT_OF_PLAIN = (
    *INDIFFERENT,
    *("activation", "epochs", "give_up", "method", "probe", "rate", "reference", "rule", "search", "target"),
    "target_on",
)
"""Shared options that a plain network does not depend on, or that have defaults which do."""

_MUST_AGREE = ("data", "label", "task", "scaling", "split_seed")
"""Options of a reference that must be those of the run, or its figures are about other data."""


@dataclass(frozen=True)
class Aim:
    """What λ is steered to.

    Attributes:
        target: the figure to reach. None: λ stays as it is.
        figure: which one: ``accuracy``, ``balanced_accuracy`` or ``rmse``.
        part: the part of the data on which it is measured.
        by_epoch: whether it is measured after each epoch, and not in each batch.
        resolution: the change of the figure by a single input, at most; closer to the target, λ moves more slowly.
        give_up: what is given up of the reference's figure. None: the target was named.
        reference: the reference's figure on that part.
        reference_run: the folder of the reference; of one inside the run's folder, its name.
        reference_method: how the reference was trained.
    """

    target: float | None
    figure: str
    part: TargetOn
    by_epoch: bool
    resolution: float = 0.0
    give_up: float | None = None
    reference: float | None = None
    reference_run: str | None = None
    reference_method: str | None = None

    def score(self, task: Task, output: Tensor, y: Tensor) -> float:
        """Return what a controller compares with the target score, from outputs of the network for a whole part."""
        if self.figure == "balanced_accuracy":
            return accuracy_of(output, y, balanced=True)
        return float(task.score(output, y))

    def results(self) -> dict[str, Any]:
        """Return what ``metrics.json`` says of a target that was found; nothing of one that was named."""
        if self.give_up is None:
            return {}
        found = {name: value for name, value in asdict(self).items() if name not in ("by_epoch", "resolution")}
        return {"target": self.target, "target_on": self.part, "aim": found}


def named_aim(config: TrainConfig, data: Data) -> Aim:
    """Return the aim of a run whose target was named, or whose λ is fixed.

    Warns of a target accuracy that a constant answer meets.

    Raises:
        ValueError: a constant prediction meets a target error.
    """
    part = config.resolved_target_on
    aim = Aim(config.named_target, task_of(data).figure, part, by_epoch=part == "validation")
    if aim.target is None or not config.steered:
        return aim
    task_of(data).target_score(aim.target, data.train.y)
    y = getattr(data, part).y
    if data.classes and aim.target <= (share := constant_accuracy(y)):
        name = _class_name(data, int(y.mode().values))
        warnings.warn(
            f"target: {_percent(aim.target)} is no more than always answering {name} reaches ({_percent(share)}), so a "
            "network that does just that meets it: leave --target out, to give up a part of a plain network's "
            f"accuracy, or name a higher one{_meant(aim.target)}",
            CheaplipWarning,
            stacklevel=2,
        )
    return aim


def plain_config(config: TrainConfig) -> TrainConfig:
    """Return the options of the plain network that a run is compared with: the same model, in the same epochs."""
    return replace(
        config,
        method=Plain.name,
        activation=config.activation or config.method_class.activation,
        epochs=config.resolved_epochs,
        target=None,
        target_on=None,
        reference=None,
        held_out=0,
        probe=0,
        search=min(config.search, _SEARCH),
    )


def serves_as_plain(plain: TrainConfig, config: TrainConfig) -> bool:
    """Return whether a configuration is the plain training that :func:`plain_config` asks for.

    It may differ in options that do not matter to a plain network.
    """
    wanted = plain_config(config)
    shared = [field.name for field in fields(SharedOptions) if field.name not in _NOT_OF_PLAIN]
    return (
        plain.method_class is Plain
        and all(getattr(plain, name) == getattr(wanted, name) for name in shared)
        and (plain.resolved_activation, plain.resolved_epochs) == (wanted.resolved_activation, wanted.resolved_epochs)
    )


def aim_below(config: TrainConfig, data: Data, reference: RunFolder, name: str) -> Aim:
    """Return the aim of a run that gives up a part of what a reference reaches.

    The figure is the accuracy on the validation part, or with rare classes the balanced accuracy, or the error (RMSE).
    Where the validation part lacks a class, the training part takes its place. If the reference is no better than a
    constant answer, λ stays as it is. All three are warned of where they are news.

    Args:
        config: the options of the run.
        data: its data.
        reference: the folder of a finished run on the same data.
        name: of that folder, for the results.

    Raises:
        ConfigError: the reference is about other data.
        RunError: it is not a finished run, or cannot be read.
    """
    model_config = _checked(config, reference)
    _check_labels(data, reference)
    model = model_config.build_model(data).to(data.train.x.device)
    reference.load_model(model)
    assert isinstance(config.give_up, float)
    part = config.resolved_target_on
    if data.classes and part == "validation" and (missing := _missing_class(data)) is not None:
        part = "train"
        warnings.warn(
            f"the validation data has no input of class {_class_name(data, missing)}: the target is for the training "
            "data instead",
            CheaplipWarning,
            stacklevel=2,
        )
    x, y = getattr(data, part)
    with evaluation_mode(model):
        output = predict(model, x)
    if data.classes:
        balanced = has_rare_classes(data.train.y, data.classes)
        reached = accuracy_of(output, y, balanced=balanced)
        constant = constant_accuracy(y, balanced=balanced)
        target = target_accuracy(reached, config.give_up, constant, count=len(y))
        figure = "balanced_accuracy" if balanced else "accuracy"
        counts = y.bincount()
        counts = counts[counts > 0]
        resolution = 1 / (len(counts) * int(counts.min())) if balanced else 1 / len(y)
    else:
        reached = root_mean_square(output, y)
        constant, figure, resolution = min(constant_error(y), constant_error(data.train.y)), "rmse", 0.0
        target = target_error(reached, config.give_up, constant)
    if target is None:
        write = _percent if data.classes else "{:.4g}".format
        warnings.warn(
            f"the {model_config.method} network in {reference.path} is no better on {part} data than one answer for "
            f"all inputs ({figure.replace('_', ' ')} {write(reached)} against {write(constant)}), so there is nothing "
            "to give up, and λ stays at its first value: train longer, or check the data",
            CheaplipWarning,
            stacklevel=2,
        )
    by_epoch = part == "validation" or config.resolved_target_on != part or figure == "balanced_accuracy"
    return Aim(target, figure, part, by_epoch, resolution, config.give_up, reached, name, model_config.method)


def missed(metrics: Mapping[str, Any]) -> str:
    """Say that a run missed the target that was found for it, and what to do; "" if it did not.

    Args:
        metrics: its ``metrics.json``.
    """
    aim = metrics.get("aim")
    if not aim or aim["target"] is None:
        return ""
    target, figure, part = aim["target"], str(aim["figure"]), aim["part"]
    reached = metrics[figure][part]
    errors = figure == "rmse"
    if not misses(target, reached, errors=errors):
        return ""
    write = "{:.4g}".format if errors else _percent
    return (
        f"the target was missed: the {figure.replace('_', ' ')} on {part} data is {write(reached)} instead of "
        f"{write(target)}; train longer (--epochs), or give up more (--give-up); for features in unlike ranges, "
        "--scaling standard"
    )


def check_reference(config: TrainConfig, data: Data) -> None:
    """Check that the reference which the options name is a finished run on the same data, before anything is written.

    Raises:
        ConfigError: the reference is about other data.
        RunError: it is not a finished run, or cannot be read.
    """
    if config.reference is None:
        return
    reference = RunFolder(config.reference)
    _checked(config, reference)
    if data.recipe is None or not (reference.path / "data.json").is_file():
        return
    if reference.read_json("data.json").get("sha256") != data.recipe.sha256:
        raise ConfigError(
            f"reference: expected a run on {config.data} as it is now, got one on other rows in {reference.path}: "
            "choose another, or leave --reference out"
        )


def _checked(config: TrainConfig, reference: RunFolder) -> TrainConfig:
    """The options of a reference, after a check that it is finished and about the same data."""
    reference.read_json("metrics.json")
    found = from_json(reference.read_json("config.json"))
    for name in _MUST_AGREE:
        if getattr(found, name) != getattr(config, name):
            raise ConfigError(
                f"reference: expected a run with {name} {getattr(config, name)!r}, as this one, got "
                f"{getattr(found, name)!r} in {reference.path}: choose another, or leave --reference out"
            )
    return found


def _check_labels(data: Data, reference: RunFolder) -> None:
    """Refuse a reference whose labels were scaled otherwise, as its model predicts those."""
    kept = reference.read_json("data.json").get("labels") if (reference.path / "data.json").is_file() else None
    if data.recipe is not None and (kept is None) != (data.recipe.labels is None):
        raise ConfigError(
            f"reference: expected a run whose {data.outputs} labels are scaled as here, got another in "
            f"{reference.path}: train it again, or leave --reference out"
        )


def _missing_class(data: Data) -> int | None:
    """The first class of the training labels that the validation labels lack; None where there is none."""
    missing = set(data.train.y.tolist()) - set(data.validation.y.tolist())
    return min(missing, default=None)


def _class_name(data: Data, number: int) -> str:
    return repr(data.class_names[number]) if data.class_names else str(number)


def _meant(target: float) -> str:
    """Return the suggestion of a target below 1 % that was probably meant as a fraction, such as 98 % for 0.98 %."""
    meant = f"{1e4 * target:.6g}%"
    return f"; if {meant} was meant, write --target {meant}" if 0 < target < 0.01 else ""


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"
